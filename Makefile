# Everything runs in its own virtual environment. Needed beforehand: Python 3.11, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# Where `make demo` writes: data, checkpoints, the table and the pictures.
DEMO ?= runs/mini

.PHONY: demo test test-slow test-matrix browser-test quality style clean

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process 1 examples/train_stepping_stones.py --output_dir $(DEMO) --resume_from_checkpoint latest
	$(BIN)/python examples/segment_mini_avsbench.py --run $(DEMO)

# A file's tests stay together, so that what they share is made once.
test: quality
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

# Among them those that need the extras "adapt" and "export".
test-slow: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,adapt,export]"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# The suite on other releases than the pinned ones, each in an environment of its own: the oldest transformers that
# setup.cfg admits, what is pinned, the newest transformers, and the newest of everything that setup.cfg admits.
# `make test-matrix-newest` runs one of them, `make --keep-going test-matrix` all of them whatever fails.
MATRIX := oldest-transformers pinned newest-transformers newest
OLDEST_TRANSFORMERS := $(shell sed -n 's/^ *transformers>=\([0-9.]*\).*/\1/p' setup.cfg)
constraints-oldest-transformers := sed 's/^transformers==.*/transformers==$(OLDEST_TRANSFORMERS)/' constraints.txt
constraints-pinned := cat constraints.txt
constraints-newest-transformers := grep -v -E '^(transformers|tokenizers|huggingface_hub)==' constraints.txt
constraints-newest := true

test-matrix: $(MATRIX:%=test-matrix-%)

# Pip is run each time, since what is newest changes.
test-matrix-%:
	$(PYTHON) -m venv .venv-matrix/$*
	$(constraints-$*) > .venv-matrix/$*/constraints.txt
	.venv-matrix/$*/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager \
		-c .venv-matrix/$*/constraints.txt -e ".[dev]"
	.venv-matrix/$*/bin/python -m pip list --disable-pip-version-check --format freeze \
		| grep -E '^(accelerate|datasets|evaluate|huggingface_hub|numpy|pillow|torch|torchvision|transformers)=='
	.venv-matrix/$*/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

# The demo's page in a real browser. SCREENSHOT=page.png keeps a picture of it.
browser-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo,browser]"
	@if ! command -v chromium || ! command -v chromedriver; then \
		if [ "$$(id -u)" != 0 ]; then echo "Needs root once: apt-get install chromium chromium-driver" >&2; exit 1; fi; \
		apt-get update && apt-get install --yes --no-install-recommends chromium chromium-driver; \
	fi
	$(BIN)/python -m pytest tests/examples/test_gradio_demo.py

# `mlinter` checks the model folders with the rules that transformers has for its own.
quality: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mlinter src/stepping_stones_hf/models
	test -z "$$($(BIN)/python -c 'import stepping_stones_hf' 2>&1)"

style: $(VENV)/.installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) .venv-matrix build dist .pytest_cache .ruff_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
