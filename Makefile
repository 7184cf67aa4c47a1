# `make help` lists the targets. Each does all the set-up that it needs.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # Two targets may install Debian packages.
MAKEFLAGS += --no-print-directory
# Commands that are started anew would else compile all their modules each time: 0.36 s instead of 0.20 for a push.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([.a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | while IFS='	' read -r name text; do \
		printf '  make %-11s %s\n' "$$name" "$$text"; done

.venv/up-to-date: pyproject.toml uv.lock scripts/make-venv
	@scripts/make-venv
	@touch $@

.PHONY: .venv
.venv: .venv/up-to-date ## make the virtual environment, exactly as uv.lock says

.PHONY: system
system: ## install the Debian packages that the real tests use, where missing
	@scripts/system-packages

.PHONY: promtool
promtool: ## unpack Debian's promtool for the tests, where missing
	@scripts/fetch-promtool

.PHONY: clients
clients: ## unpack newer Nix, as further clients of the tests, where missing
	@python3 scripts/nix_clients.py

.PHONY: provider
provider: .venv ## install the OpenID Connect provider of the tests, where missing
	@scripts/install-provider

.PHONY: demo
demo: .venv system ## the main job in a minute: serve, push, pull with real Nix, push a rebuild
	@.venv/bin/python scripts/demo.py

.PHONY: transcripts
transcripts: .venv system clients ## record again what each command prints, into docs/transcripts.md
	@.venv/bin/python -m scripts.record_transcripts

.PHONY: serve
serve: .venv ## start a server in this folder and leave it running
	@.venv/bin/icehouse serve

.PHONY: lint
lint: .venv ## check style, types and layers
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/basedpyright
	.venv/bin/lint-imports

.PHONY: format
format: .venv ## mend style where a program can
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

.PHONY: test
test: .venv system clients provider promtool lint ## everything that a change must pass
	@# Two processes, each with whole files, take 14 minutes on two cores; one takes 24.
	.venv/bin/pytest -m 'not long' -n 2 --dist loadfile

.PHONY: test-long
test-long: .venv system clients ## the campaigns: long fuzzing, scale, tables of faults
	HYPOTHESIS_PROFILE=long .venv/bin/pytest -m long

.PHONY: bench
bench: .venv system ## compare with nginx and Nix on this machine
	@scripts/fetch-nginx
	PATH="$$PATH:/usr/sbin:$(CURDIR)/.bench/usr/sbin" .venv/bin/python -m bench
