# Needs only Python 3.11, git and make. Everything else goes into .venv, pinned with hashes; and the packages that others
# publish under names of ours into .venv-published, for the tests and the bench to run beside ours.
.PHONY: run demo test proof bench lint fmt lock clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PUBLISHED := .venv-published
PUBLISHED_READY := $(PUBLISHED)/.ready

# Whoever may not keep what Python compiled compiles it anew in each of the hundreds of processes that tests start
unexport PYTHONDONTWRITEBYTECODE

# The main job: the authority with its demo, data kept in .countermand
run: $(READY)
	$(BIN)/countermand up --demo

# The same without a person: exits 0 only if every step held
demo: $(READY)
	$(BIN)/countermand demo

# Two workers, a file to each at a time: what a test times may take what it takes on a machine that does something else
test: $(READY) $(PUBLISHED_READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What everything costs, beside what it is compared with, in one table; minutes, and best on a machine at rest
bench: $(READY) $(PUBLISHED_READY)
	$(BIN)/python -m bench

# What takes longer than a test may, and on both databases: clients that race each other; kills, writers and trees by the
# score; three processes of one authority; a million descendants; what Redis may lose, at length, and its failovers
proof: $(READY) $(PUBLISHED_READY)
	PROOF=1 $(BIN)/python -m pytest -s tests/faults tests/integration

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fmt: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Resolve the pins again after a change in pyproject.toml or requirements/published.in; both get the same redis-py
lock: $(READY)
	$(BIN)/uv pip compile pyproject.toml --extra all --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-package countermand --no-emit-index-url --no-header --quiet --upgrade -o requirements/dev.txt
	$(BIN)/uv pip compile requirements/published.in --constraints requirements/dev.txt --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet --upgrade -o requirements/published.txt

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "countermand needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# It needs no pip of its own, which would take longer than the rest
$(PUBLISHED_READY): requirements/published.txt | $(READY)
	$(PYTHON) -m venv --clear --without-pip $(PUBLISHED)
	$(BIN)/python -m pip --python $(PUBLISHED) install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
		-r requirements/published.txt
	@touch $@

clean:
	rm -rf $(VENV) $(PUBLISHED) .countermand .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
