"""Cases that need the stand-in torch_mlu for a whole process: ../test_on_standin.py runs them in a child."""

import os

import torch

collect_ignore_glob = [] if os.environ.get("STANDIN_MLU_DEVICES") else ["test_*.py"]
torch.set_num_threads(1)
