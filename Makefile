# Every target sets up what it needs (.host/: ComfyUI, .venv/: its packages) and does nothing twice.
#   COMFYUI_PATH=/path/to/ComfyUI   use that copy; with PYTHON=/path/to/python also its interpreter
#   COMFYUI_TAG=v0.33.1             fetch that release of ComfyUI and use it, with packages of its own
#   PORT=8288                       where `make serve` listens
PYTHON3 := $(if $(PYTHON),$(PYTHON),python3)
RUN := @"$(PYTHON3)" -m tools.comfy.host
export COMFYUI_PATH COMFYUI_TAG PYTHON PORT
PYTEST := -m pytest -c tests/pytest.ini --rootdir tests
# A worker that crashes is told with its test; starting another would lose the groups of tests/conftest.py.
WORKERS := -n 2 --max-worker-restart 0

.PHONY: help host demo test test-fast serve check browser-test thumbnails locales train eval bench soak

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

host:  ## set up ComfyUI and its packages, nothing else
	$(RUN)

demo:  ## queue the demo graphs: output/demo/contact_sheet.png, report.json (ARGS=--quick: few steps)
	$(RUN) -m tools.demo $(ARGS)

test:  ## run the whole test suite (TESTS="tests/tools/test_comfyui_setup.py -k hash" for a part)
	$(RUN) $(PYTEST) $(or $(TESTS),$(WORKERS) tests)

test-fast:  ## the quick part of it: no server, no browser, nothing long
	$(RUN) $(PYTEST) $(WORKERS) -m "not server and not slow" tests

serve:  ## open the graph editor with the pack and the demo model
	$(RUN) -m tools.serve

check:  ## lint, types, import rules, workflow files
	$(RUN) -m tools.check

browser-test:  ## the real browser against the real frontend
	@"$(PYTHON3)" -m tools.browser
	@FOVEA_NEEDS_BROWSER=1 "$(PYTHON3)" -m tools.comfy.host -m pytest -c tests/pytest.ini --rootdir tests tests/browser

thumbnails:  ## draw the pictures of the templates anew (workflows/*.jpg)
	$(RUN) -m tools.release.thumbnails

locales:  ## write the English texts of the nodes anew (locales/en), and defaults in the help pages
	$(RUN) -m tools.release.locales
	$(RUN) -m tools.release.help_defaults

train:  ## train ShapesWorld from nothing (ARGS="--device auto --minutes 60")
	$(RUN) -m tools.shapesworld.train $(ARGS)

eval:  ## the quality tables on ShapesWorld: output/eval/report.json, docs/results.md (hours; ARGS=--quick: minutes)
	$(RUN) -m tools.studies quality $(ARGS)

bench:  ## speed and memory against the host's own nodes: output/bench/report.json (ARGS=--quick: the demo model alone)
	$(RUN) -m tools.studies speed $(ARGS)

soak:  ## up to 500 prompts over all graphs on one server: output/soak/report.json (ARGS="--minutes 5")
	$(RUN) -m tools.soak $(ARGS)
