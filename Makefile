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

# On a machine with a GPU; everything it writes lies under $(OUT).
gpu:
	$(PYTHON) -m pytest -m gpu tests/measure/test_gpu.py tests/measure/test_meters.py --override-ini=cache_dir=$(OUT)/pytest_cache
	$(PYTHON) -m bench -m runtime=cuda runtime.tier=graph,static,eager results_dir=$(OUT)/results
