# What a developer runs; CI runs .ci/run, which covers quality and test in a fresh environment.
PYTHON ?= python
OUT ?= out
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: quality style test report gpu

quality:
	ruff check .
	ruff format --check .
	mypy

style:
	ruff check --fix .
	ruff format .

test:
	$(PYTHON) -m pytest -n auto --dist loadfile

report:
	$(PYTHON) -m bench.report results/published

# On a machine with a GPU, see .ci/gpu.py; everything it writes lies under $(OUT). GPU_DRY=1 rehearses it on a CPU.
gpu:
	$(PYTHON) .ci/gpu.py run $(OUT) $(PHASES)
