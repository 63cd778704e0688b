# Copyright 2026 The stepping_stones_hf authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
import os
from pathlib import Path


# Nothing in the test suite may reach for the Hub. What reads these, reads them as it is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_EVALUATE_OFFLINE"] = "1"

import datasets  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


FIXTURES_DIR = Path(__file__).parent / "fixtures"
SHARED_DIR = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True)
def same_settings():
    """
    Scripts, which tests and what they share run in their own process, set what is the process's: the number of
    threads, by which products are rounded, and whether `datasets` shows progress bars.
    """
    datasets.enable_progress_bars()
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """The small set of reference tensors that travels with the repository."""
    return FIXTURES_DIR


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The full set of reference tensors and real clips, which stands beside the repository where it is available."""
    if not SHARED_DIR.is_dir():
        pytest.skip(f"needs the full reference set at {SHARED_DIR}, which is not part of the repository")
    return SHARED_DIR


@pytest.fixture(scope="session")
def two_stage_repository(tmp_path_factory) -> Path:
    """Tiny, with random weights; what it sees and hears matters."""
    from .two_stage import save_two_stage_repository

    return save_two_stage_repository(tmp_path_factory.mktemp("two_stage"))
