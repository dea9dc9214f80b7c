# make demo, make test and make check need only Python >= 3.11, make and a package index.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
BIN := .venv/bin
INSTALLED := .venv/.installed
PLAYERS := tests/web/node_modules/.installed
# Two workers; tests of one file stay together, as they share recordings made once per file.
WORKERS ?= 2
# A LiDAR recording, for a picture of the README.
STREET ?= ../shared/data/street_lidar

.PHONY: demo test check faults demo-data docs
demo: $(INSTALLED)
	rm -rf out/demo
	mkdir -p out
	$(BIN)/protoscene demo -o out/demo

test: $(INSTALLED) $(PLAYERS)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layout.py

# Every fault in full, hours: N kills of each command, MINUTES of fuzzing and at most so many
# of each row of kills; the table goes to docs/results.md. With PARTS (tests/faults/parts.py)
# only these are done, and their rows alone take the place of earlier ones.
N ?= 200
MINUTES ?= 60
faults: $(INSTALLED)
	$(BIN)/python tests/faults $(PARTS) --trials $(N) --minutes $(MINUTES) --results docs/results.md

# The pictures of the README: the pages of the demo and of a drive, seen in chromium.
docs: demo
	$(BIN)/python docs/picture.py summary out/demo/report.html docs/demo.png
	$(BIN)/python docs/picture.py viewer out/demo/report.html docs/viewer.png
	@if test -d '$(STREET)'; then $(MAKE) --no-print-directory docs/viewer_street.png; \
	else echo 'docs/viewer_street.png stays as it is: there is no $(STREET)' >&2; fi

.PHONY: docs/viewer_street.png
docs/viewer_street.png: $(INSTALLED)
	rm -rf out/street
	mkdir -p out/street
	$(BIN)/protoscene discover '$(STREET)' -o out/street/scene
	$(BIN)/protoscene view out/street/scene --recording '$(STREET)' --html out/street/report.html
	$(BIN)/python docs/picture.py viewer out/street/report.html $@

# The recording that comes with protoscene. Whoever changes its settings runs this and commits it.
demo-data: $(INSTALLED)
	rm -rf src/protoscene/demo
	$(BIN)/protoscene synth --like demo -o src/protoscene/demo

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n '$(PYTHON)' || { echo 'protoscene needs Python 3.11 or newer' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,sim,farm]'
	touch $@

# The glTF validator and three.js, which some tests of export run; without npm these are skipped.
$(PLAYERS): tests/web/package.json
	@if npm install --prefix tests/web --no-package-lock --no-audit --no-fund --ignore-scripts --silent; \
	then touch $@; else echo 'no npm or no index: tests of exported glb files are skipped' >&2; fi
