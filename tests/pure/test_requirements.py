"""requirements.txt as the CLI and the SDK read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.kernel.catalogue import EnvironmentSpec
from modelworks.kernel.errors import Invalid
from modelworks.sdk.requirements import read_requirements

MAIN = """\
# what we need
--extra-index-url https://example.org/simple
numpy == 2.4.6   # arrays
tabulate==0.9.0 \\
    --hash=sha256:abc \\
    --hash=sha256:def
-r more/other.txt

numpy == 2.4.6
"""


def test_comments_continued_lines_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(MAIN)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "other.txt").write_text("-rdeep.txt\nscipy\n")
    (tmp_path / "more" / "deep.txt").write_text('tomli>=2 ; python_version < "3.11"\n')
    lines = read_requirements(tmp_path / "requirements.txt")
    assert lines == [
        "--extra-index-url https://example.org/simple",
        "numpy == 2.4.6",
        "tabulate==0.9.0 --hash=sha256:abc --hash=sha256:def",
        'tomli>=2 ; python_version < "3.11"',
        "scipy",
    ]
    EnvironmentSpec.parse({"requirements": lines})


def test_a_file_that_names_itself_or_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("--requirement requirements.txt\n")
    with pytest.raises(Invalid, match="names itself"):
        read_requirements(file)
    file.write_text("-r nowhere.txt\n")
    with pytest.raises(Invalid, match=r"nowhere\.txt cannot be read: No such file"):
        read_requirements(file)
