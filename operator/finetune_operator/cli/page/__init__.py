"""The page of a job: one self-contained HTML file with its verdict, evidence and cost.

Written by ``finetune run`` and ``finetune report``. Everything on it is computed in Python
(``verdict``, ``costs``, ``evidence``, ``curve``, ``attempts``, ``data``, ``settings``) and laid out
by the templates beside it, which escape all of it: labels and messages are people's text.
"""

from finetune_operator.cli.page.facts import PageFacts
from finetune_operator.cli.page.render import write_page

__all__ = ["PageFacts", "write_page"]
