# Everything that a developer types. The work is in scripts/, one small file each.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo up down settings test bench soak check prepare advisories clean clean-all

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## install, build and start everything, then play the main job and print it as it happens
	@scripts/demo.sh

up: ## start the whole stack with a development cluster
	@scripts/up.sh

down: ## stop the stack; its data stays
	@scripts/compose.sh --profile cluster --profile demo down

settings: ## images, passwords and certificate authorities: what a plain `docker-compose up` needs
	@scripts/tools.sh demo && scripts/images.sh && scripts/settings.sh

test: ## unit, integration and end-to-end tests, on a real Postgres, registry and cluster
	@scripts/test.sh

bench: ## latencies and rates of this machine
	@scripts/bench.sh

soak: ## long fuzzing, then the end-to-end suite again and again, for SOAK_MINUTES (60)
	@scripts/soak.sh

check: ## format, lints, documentation, dependencies, checked queries, scripts
	@scripts/check.sh

prepare: ## write .sqlx anew after a query or a migration has changed
	@scripts/with_database.sh cargo sqlx prepare --workspace -- --all-targets

advisories: ## known vulnerabilities of the dependencies; needs GitHub
	@scripts/advisories.sh

clean: ## remove the stack with its data, and what tests left behind
	@scripts/clean.sh

clean-all: ## also remove the images, the tools, the passwords and the build output
	@scripts/clean.sh all
