# Everything runs in its own virtual environment. Needed beforehand: Python 3.11, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# Where `make demo` writes: data, checkpoints, the table and the pictures.
DEMO ?= runs/mini

.PHONY: demo test test-slow browser-test quality style clean

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		--num_cpu_threads_per_process 1 examples/train_stepping_stones.py --output_dir $(DEMO) --resume_from_checkpoint latest
	$(BIN)/python examples/segment_mini_avsbench.py --run $(DEMO)

test: quality
	$(BIN)/python -m pytest -n 2 -m "not slow"

# Among them those that need the extras "adapt" and "export".
test-slow: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,adapt,export]"
	$(BIN)/python -m pytest -n 2 -m slow

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
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
