"""The deployment checks pass against the real server, and notice when something is wrong."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tests.integration.running import CODE, ROOT, RunningShop


class StoryTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        code_file = Path(folder.name, "code")
        code_file.write_text(CODE)
        cls.shop = RunningShop(DISCOUNT_CODE_FILE=str(code_file), SHOP_VERSION="1.2.3")
        cls.addClassCleanup(cls.shop.close)
        cls.shop.wait_until_ready()

    def test_smoke_test_passes(self):
        result = run_script("smoke.py", self.shop.url, "--version", "1.2.3")
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_smoke_test_notices_the_wrong_version(self):
        result = run_script("smoke.py", self.shop.url, "--version", "9", "--wait", "0.1")
        self.assertEqual(result.returncode, 1)
        self.assertIn("version 1.2.3 answers, expected 9", result.stderr)

    def test_e2e_test_passes(self):
        result = run_script("e2e.py", self.shop.url, "--code", CODE)
        self.assertEqual(result.returncode, 0, result.stderr)

    def test_e2e_test_notices_that_a_discount_is_refused(self):
        result = run_script("e2e.py", self.shop.url, "--code", "other")
        self.assertEqual(result.returncode, 1)
        self.assertIn("unknown discount code", result.stderr)


def run_script(name, *arguments):
    command = [sys.executable, str(ROOT / "tests" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


if __name__ == "__main__":
    unittest.main()
