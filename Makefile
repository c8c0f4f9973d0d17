# SPDX-License-Identifier: Apache-2.0
# The few commands of this project; each works on a fresh Debian 12, as root.

SHELL := /bin/bash
VENV := $(or $(MINICLOUD_CACHE),/var/cache/nova-vcloud)/venv
.DEFAULT_GOAL := help
LAYERS := $(addprefix test-,unit contract functional integration scheduler vm)
.PHONY: help demo test lint $(LAYERS) test-security tempest bench genconfig docs clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo:  ## Bring the mini cloud up and boot servers on both hosts
	devstack/minicloud up
	devstack/minicloud demo

test:  ## Run every check and every layer of tests
	tests/run all

lint:  ## Run the checks that run no code: ruff, mypy, shell, docs
	tests/run lint

$(LAYERS):  ## One layer
	tests/run $(@:test-%=%)

test-security:  ## Attacks and fuzzers at length (an hour)
	NOVA_VCLOUD_SECURITY=long tests/run security

tempest:  ## Run tempest's tests of compute and its scenarios that apply
	devstack/minicloud up --with-cinder
	devstack/minicloud tempest

bench:  ## Measure; build/bench/*.json; fails when a goal is missed
	devstack/minicloud install
	@mkdir -p build/bench; missed=0; for file in benchmarks/[!_]*.py; do \
	    echo "--- $$file"; \
	    $(VENV)/bin/python -W ignore "$$file" || missed=1; done; exit $$missed

genconfig:  ## Write the sample configuration anew
	$(VENV)/bin/oslo-config-generator \
	    --config-file etc/nova-vcloud/config-generator.conf

docs:  ## Build the documentation into build/html
	$(VENV)/bin/sphinx-build -W --keep-going -q -d build/doctrees \
	    doc/source build/html

clean:  ## Remove the mini clouds and everything that was built
	devstack/minicloud clean
	tests/run clean
	rm -rf build dist doc/build releasenotes/build .tox .mypy_cache \
	    .ruff_cache .pytest_cache *.egg-info
