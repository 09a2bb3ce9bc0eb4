# The verbs. What they do is in mambaviz/book/bootstrap.py.
PYTHON ?= python3
DO = @$(PYTHON) mambaviz/book/bootstrap.py

.PHONY: help book serve lab test check bench

help: ## print this list
	@awk -F ': ## ' '/^[a-z]+: ## / {printf "  make %-6s %s\n", $$1, $$2}' Makefile
	@echo '  PYTHON=python3.12 picks the Python, as in: make PYTHON=python3.12 book'

book: ## install what the book needs into .venv, execute every chapter, build
	$(DO) book

serve: ## show the built book on this machine; PORT=8001 picks the port
	$(DO) serve $(PORT)

lab: ## open copies of the chapters as notebooks in JupyterLab
	$(DO) lab $(ARGS)

test: ## run every test that needs no GPU; ARGS="-k wheel" goes to pytest
	$(DO) test $(ARGS)

check: ## style and import contracts
	$(DO) check

bench: ## run the benchmarks; ARGS="NAME" picks one
	$(DO) bench $(ARGS)
