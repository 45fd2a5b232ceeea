# One command for each thing one does here; `make demo` and `make test` set everything up themselves.
.PHONY: setup demo test test-all lint s3prl-setup bench-setup bench bench-data clean

BIN := .venv/bin

setup:
	@.ci/setup

demo: setup  ## the main job end to end; DATA=DIR takes your own folder of audio
	@$(BIN)/python -m mae_ast_plugin.demo $(if $(DATA),--data "$(DATA)")

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/mypy

test: export OMP_NUM_THREADS = 1
test: setup lint  ## lint and the whole suite
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: setup  ## and the tests marked slow
	@$(BIN)/python -m pytest -n 2 --dist loadfile --all

s3prl-setup: setup  ## s3prl for SUPERB's tasks (docs/superb.md); without it the tests that run it are skipped
	@.ci/s3prl-setup

bench-setup: setup  ## the programs the speed benchmarks compare with
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --no-deps s3prl==0.4.18 torchaudio

bench: bench-setup  ## speed, side by side with other programs; nothing else should run meanwhile
	@cd benchmarks && for name in fbank masks step manifest loader; do ../$(BIN)/python $$name.py; done

bench-data: setup  ## batches, use of the cores by check and stats, thirty kills: 15 minutes, no other programs needed
	@cd benchmarks && for name in batches check kills; do ../$(BIN)/python $$name.py || exit 1; done

clean:
	rm -rf .venv build dist *.egg-info demo runs
