"""FPAD's FpNet: fuzzy prototypes of classes in feature space, and codes made from them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

from hamward.codes import hamming_distance
from hamward.errors import ConfigError

__all__ = [
    "Clusters",
    "PrototypeNetwork",
    "Separation",
    "calibrated_memberships",
    "class_means",
    "fuzzy_c_means",
    "k_means",
    "prototype_code",
    "prototype_softmax",
    "separation",
]

_EPS = 1e-5  # eps0 of the released code


class PrototypeNetwork(nn.Module):
    """FpNet's code branch: a joint feature, (n, 2 d), -> a feature g and a code tanh(.), (n, K).

    Source: FPAD's LabelNet G: Linear(2 d, 1024) from N(0, 0.2^2), ReLU = g, dropout 0.2,
        Linear(1024, K) from N(0, 0.2^2), tanh. Biases start at 0 (INFERRED).
    """

    def __init__(self, joint_width: int, code_length: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(joint_width, 1024)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(1024, code_length)
        for layer in (self.hidden, self.head):
            nn.init.normal_(layer.weight, std=0.2)
            nn.init.zeros_(layer.bias)

    def features(self, joint: Float[Tensor, "n d2"]) -> Float[Tensor, "n 1024"]:
        """Return g, non-negative."""
        return F.relu(self.hidden(joint))

    def forward(self, joint: Float[Tensor, "n d2"]) -> Float[Tensor, "n k"]:
        """Return G, in (-1, 1)."""
        return torch.tanh(self.head(self.dropout(self.features(joint))))


def prototype_code(
    network: PrototypeNetwork,
    image: Float[Tensor, "c d"],
    text: Float[Tensor, "c d"],
    joint: Float[Tensor, "c d2"],
) -> Float[Tensor, "c k"]:
    """Return c = tanh(0.2 G(Q) + 0.8 G(P^f)), Q = normalize([P^v ; P^t]) row by row.

    G ends in tanh already, so that |c| <= tanh 1 = 0.762.

    Args:
        network: G.
        image: P^v, prototypes of image features, (C, d).
        text: P^t, prototypes of text features, (C, d).
        joint: P^f, prototypes of joint features, (C, 2 d).
    """
    both = F.normalize(torch.cat([image, text], dim=1))
    return torch.tanh(0.2 * network(both) + 0.8 * network(joint))


def prototype_softmax(
    features: Float[Tensor, "n d"],
    prototypes: Float[Tensor, "c d"],
    labels: Float[Tensor, "n c"],
    *,
    tau: float = 20.0,
) -> Float[Tensor, " n"]:
    """Softmax of an item over one own class and all foreign classes, for each own class.

    1 / (|y| + C eps0) sum_{j in y} -log( e^{tau s_j} / (e^{tau s_j} + sum_{l not in y}
    e^{tau s_l} + |y|) + eps0 ) with s = a . p / (|a| |p| + eps0).

    Source: FPAD's released code, L(a, p) of stage 1; no margin. The additive |y| is an accident
        of masking similarities to 0 before the exponential; kept, it is 1e-8 of e^20.
        eps0 beside the norms is INFERRED: the value of the released code is met with it only.
    Differs: a value per item (released code: the sum of the batch); exponentials of differences.
    """
    norms = features.norm(dim=1)[:, None] * prototypes.norm(dim=1)
    cosine = features @ prototypes.T / (norms + _EPS)
    own, count = labels > 0, labels.sum(1, keepdim=True)
    none = torch.finfo(cosine.dtype).min / 4
    foreign = (tau * cosine).masked_fill(own, none).logsumexp(1, keepdim=True)
    rest = torch.logaddexp(foreign, count.clamp(min=_EPS).log())
    terms = -torch.log(torch.exp(-F.softplus(rest - tau * cosine)) + _EPS)
    return (terms * own).sum(1) / (count[:, 0] + labels.shape[1] * _EPS)


def class_means(points: Float[Tensor, "n d"], labels: Float[Tensor, "n c"]) -> Float[Tensor, "c d"]:
    """Return the mean of the points that carry each label, (C, d); every label needs a point."""
    return (labels.T @ points) / labels.sum(0)[:, None]


def k_means(
    points: Float[Tensor, "n d"],
    centers: Float[Tensor, "c d"],
    *,
    allowed: Bool[Tensor, "n c"] | None = None,
    iterations: int = 300,
) -> tuple[Float[Tensor, "c d"], Float[Tensor, "n c"]]:
    """Lloyd's iterations from given centers until no point changes its cluster.

    A cluster that loses all points keeps its center.

    Args:
        points: z.
        centers: Where to start; cluster c stays at row c.
        allowed: Clusters that a point may belong to; None is all.
        iterations: At most this many.

    Returns:
        Centers, and one-hot memberships.
    """
    hot = torch.zeros(len(points), len(centers), dtype=points.dtype, device=points.device)
    for _ in range(iterations):
        distance = torch.cdist(points, centers)
        if allowed is not None:
            distance = distance.masked_fill(~allowed, torch.inf)
        now = F.one_hot(distance.argmin(1), len(centers)).to(points.dtype)
        if torch.equal(now, hot):
            break
        hot = now
        centers = _weighted_means(points, hot, centers)
    return centers, hot


@dataclass(frozen=True, slots=True, kw_only=True)
class Clusters:
    """Fuzzy clusters.

    Attributes:
        centers: p, (C, d).
        memberships: u, (n, C); rows sum to 1.
        fuzzifier: m of the last iteration.
    """

    centers: Tensor
    memberships: Tensor
    fuzzifier: float


def fuzzy_c_means(
    points: Float[Tensor, "n d"],
    memberships: Float[Tensor, "n c"],
    *,
    fuzzifier: float | None = None,
    membership: float = 0.7,
    allowed: Bool[Tensor, "n c"] | None = None,
    tolerance: float = 1e-7,
    iterations: int = 35,
) -> Clusters:
    """Fuzzy C-means from given memberships, with a fixed or a calibrated fuzzifier.

    p_c = sum_i u_ic^m z_i / sum_i u_ic^m;  u_ic = 1 / sum_k (|z_i - p_c| / |z_i - p_k|)^(2/(m-1)).

    Source: Bezdek, 1981; FPAD's released code with m = 1.01, where the mean largest membership
        is 0.997 to 1.000, hence hard clusters. In 1024 dimensions m has a cliff (1.05: hard,
        1.2: uniform), so it is chosen by bisection here.
    Differs: without `fuzzifier`, m is found anew in every iteration such that the mean largest
        membership is `membership`. Calibrated once, at the k-means centers, it falls off the
        cliff as the centers move together.

    Args:
        points: z, (n, d).
        memberships: u to start from, usually one-hot from `k_means`.
        fuzzifier: m > 1, fixed; None calibrates.
        membership: Mean largest membership to calibrate to, over the points that have a choice
            (with one allowed cluster it is 1 anyway); reached as nearly as m in (1, 100] permits.
        allowed: Clusters that a point may belong to; None is all.
        tolerance: Stop when |u - u before| (Frobenius) is smaller.
        iterations: At most this many.
    """
    centers = torch.zeros(memberships.shape[1], points.shape[1]).to(points)
    power = 1.01 if fuzzifier is None else fuzzifier
    for _ in range(iterations):
        centers = _weighted_means(points, memberships**power, centers)
        closeness = _closeness(points, centers)
        if allowed is not None:
            closeness = closeness.masked_fill(~allowed, -torch.inf)
        if fuzzifier is None:
            choice = closeness.isfinite().sum(1) > 1
            power = 1 + 2 / _exponent(closeness[choice], membership)
        before, memberships = memberships, torch.softmax(2 / (power - 1) * closeness, dim=1)
        if torch.linalg.norm(memberships - before) < tolerance:
            break
    return Clusters(centers=centers, memberships=memberships, fuzzifier=power)


def calibrated_memberships(
    points: Float[Tensor, "n d"], centers: Float[Tensor, "c d"], *, membership: float = 0.7
) -> Float[Tensor, "n c"]:
    """Return the fuzzy memberships of points in given clusters, rows summing to 1.

    u of `fuzzy_c_means`, with m chosen such that the mean largest membership is `membership`.
    """
    closeness = _closeness(points, centers)
    return torch.softmax(_exponent(closeness, membership) * closeness, dim=1)


def _closeness(points: Tensor, centers: Tensor) -> Tensor:
    return -torch.cdist(points, centers).clamp(min=1e-12).log()


def _exponent(closeness: Tensor, membership: float) -> float:
    """Bisect for 2 / (m - 1); the mean largest membership rises with it."""
    low, high = 0.02, 1e6
    for _ in range(22 if len(closeness) else 0):
        middle = (low * high) ** 0.5
        largest = torch.softmax(middle * closeness, dim=1).amax(1).mean()
        low, high = (middle, high) if largest < membership else (low, middle)
    return float((low * high) ** 0.5)


def _weighted_means(points: Tensor, weights: Tensor, otherwise: Tensor) -> Tensor:
    total = weights.sum(0)[:, None]
    means = (weights.T @ points) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, means, otherwise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """How far a set of class codes lies apart; FPAD has no term for it, so it is reported.

    Attributes:
        smallest: Smallest Hamming distance of two codes.
        mean: Mean Hamming distance of two codes; K / 2 for Hadamard rows.
        constant_bits: Bits that are the same in all codes.
        duplicates: Pairs of equal codes.
    """

    smallest: int
    mean: float
    constant_bits: int
    duplicates: int


def separation(codes: Int8[Tensor, "c k"]) -> Separation:
    """Measure distances between codes of classes.

    Raises:
        ConfigError: there are fewer than two.

    Example:
        >>> separation(torch.tensor([[1, 1, 1], [1, -1, 1], [1, -1, -1]], dtype=torch.int8))
        Separation(smallest=1, mean=1.3333333333333333, constant_bits=1, duplicates=0)
    """
    if len(codes) < 2:
        raise ConfigError(f"separation needs at least two codes, got {len(codes)}")
    first, second = torch.triu_indices(len(codes), len(codes), 1, device=codes.device)
    distance = hamming_distance(codes, codes)[first, second]
    return Separation(
        smallest=int(distance.min()),
        mean=float(distance.double().mean()),
        constant_bits=int((codes == codes[:1]).all(0).sum()),
        duplicates=int((distance == 0).sum()),
    )
