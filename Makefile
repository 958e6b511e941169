# Everything runs in .venv, which the first command makes and later ones reuse.
PYTHON ?= python3
BIN := .venv/bin
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check
NB ?= $(filter-out %-checkpoint.ipynb, $(wildcard nbs/*.ipynb nbs/*/*.ipynb))

.DEFAULT_GOAL := help
.PHONY: help demo test lab docs slides notebooks readme clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/ready  ## train on digits, search, score, and write runs/digits/report.html
	$(BIN)/sscq demo

test: .venv/ready-dev  ## lint, then every test: notebooks, properties, reference numbers
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lab: .venv/ready-dev  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=nbs

docs: .venv/ready-dev  ## build the documentation site in _docs/ (open _docs/index.html)
	$(BIN)/python nbs/site/build.py

slides: .venv/ready-dev  ## make slides in _slides/ of every notebook, or of those in NB="nbs/06_diversity.ipynb"
	@mkdir -p _slides
	@for nb in $(NB); do $(BIN)/python nbs/site/slides.py $$nb _slides/$$(basename $$nb .ipynb).html || exit 1; done

notebooks: .venv/ready-dev  ## export, execute and clean every notebook, or those in NB="nbs/06_diversity.ipynb"
	$(BIN)/nbdev-export
	SSCQ_STILL=1 $(BIN)/jupyter nbconvert --log-level=ERROR --to notebook --execute --ExecutePreprocessor.timeout=1800 --ExecutePreprocessor.store_widget_state=False --inplace $(NB)
	$(BIN)/nbdev-clean

readme: .venv/ready-dev  ## write README.md from nbs/index.ipynb
	$(BIN)/python nbs/readme.py

clean:  ## remove the environment and what runs left behind
	rm -rf .venv runs build dist _docs _slides _proc *.egg-info

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "sscq needs Python 3.10 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv module is missing (Debian and Ubuntu: apt install python3-venv)"; exit 1; }

.venv/ready: .venv/bin/python settings.ini setup.py pyproject.toml
	@echo "installing sscq and what it needs into .venv (PyTorch alone is some gigabytes, a minute or more)"
	$(PIP) --editable .
	@touch $@

.venv/ready-dev: .venv/bin/python settings.ini setup.py pyproject.toml
	@echo "installing sscq, JupyterLab and the test tools into .venv (PyTorch alone is some gigabytes, a minute or more)"
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/ready
