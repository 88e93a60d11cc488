"""Attack, harden, certify and audit cross-modal Hamming retrieval."""

__version__ = "0.1.0"
