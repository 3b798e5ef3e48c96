"""The project's own tools: linter, wheel, installer, catalogue check, load report."""

import tempfile
import textwrap
import unittest
from pathlib import Path

from shop.catalog import Catalog, CatalogError
from tools.build_wheel import build, sha256
from tools.check_catalogs import embedded_catalog
from tools.install import InstallError, Pin, install, parse_requirements
from tools.lint import check_source
from tools.load import Outcome, percentile, report


class LintTest(unittest.TestCase):
    def test_rules(self):
        self.check("import os\n", ["missing-docstring", "unused-import"])
        self.check('"""Doc."""\nimport os\nprint(os.name)\n', [])
        self.check('"""Doc."""\nfrom a import b\n__all__ = ["b"]\n', [])
        self.check('"""Doc."""\ntry:\n    pass\nexcept:\n    pass\n', ["bare-except"])
        self.check('"""Doc."""\ndef f(a=[]):\n    """Doc."""\n', ["mutable-default"])
        self.check('"""Doc."""\nclass A:\n    def b(self): ...\n', ["missing-docstring"] * 2)
        self.check('"""Doc."""\ndef _f(): ...\n', [])
        self.check(f'"""{"x" * 120}"""\n', ["line-length"])
        self.check('"""Doc."""\nX = 1 \n', ["trailing-space"])
        self.check("def", ["syntax"])

    def check(self, source, rules):
        with self.subTest(source):
            self.assertEqual(sorted(finding.rule for finding in check_source(source)), rules)


class WheelTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        package = self.root / "src" / "tiny"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("X = 1\n")
        (self.root / "src" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: tiny-one\nVersion: 1.0\n"
        )

    def test_the_same_source_gives_the_same_bytes(self):
        first = build(self.root / "src", self.root / "a")
        second = build(self.root / "src", self.root / "b")
        self.assertEqual(first.name, "tiny_one-1.0-py3-none-any.whl")
        self.assertEqual(first.read_bytes(), second.read_bytes())

    def test_installs_what_the_hash_allows(self):
        wheel = build(self.root / "src", self.root / "dist")
        target = self.root / "target"
        install([Pin("tiny-one", "1.0", sha256(wheel))], wheel.parent, target)
        self.assertEqual((target / "tiny" / "__init__.py").read_text(), "X = 1\n")
        with self.assertRaisesRegex(InstallError, "has sha256"):
            install([Pin("tiny-one", "1.0", "0" * 64)], wheel.parent, target)
        with self.assertRaisesRegex(InstallError, "missing"):
            install([Pin("tiny-one", "2.0", "0" * 64)], wheel.parent, target)

    def test_requirements_are_exact(self):
        digest = "a" * 64
        text = (
            f"# note\n--no-index\n--find-links dist\ntiny-one==1.0 --hash=sha256:{digest}  # why\n"
        )
        self.assertEqual(parse_requirements(text), [Pin("tiny-one", "1.0", digest)])
        with self.assertRaisesRegex(InstallError, "^line 2: "):
            parse_requirements("\ntiny-one>=1.0\n")


class CatalogsTest(unittest.TestCase):
    def test_finds_the_block_in_the_manifest(self):
        manifest = textwrap.dedent(
            """\
            data:
              catalog.json: |
                {"products": [

                  {"id": "mug", "name": "Mug", "category": "kitchen", "price": "1"}]}
              other: x
            """
        )
        self.assertEqual(len(Catalog.from_json(embedded_catalog(manifest))), 1)
        with self.assertRaises(CatalogError):
            embedded_catalog("data: {}\n")


class LoadTest(unittest.TestCase):
    def test_percentile_is_the_nearest_rank(self):
        values = [float(n) for n in range(1, 101)]
        for percent, wanted in ((50, 50), (99, 99), (100, 100)):
            self.assertEqual(percentile(values, percent), wanted)
        self.assertEqual(percentile([1.0], 99), 1.0)

    def test_failures_are_server_errors_and_broken_connections(self):
        outcomes = [
            Outcome("browse", "200", "1", 0.1),
            Outcome("browse", "404", "1", 0.1),
            Outcome("checkout", "500", "2", 0.1),
            Outcome("checkout", "ConnectionResetError", "none", 0.1),
        ]
        summary = report(outcomes, 2.0)
        self.assertEqual((summary["requests"], summary["failed"], summary["rps"]), (4, 2, 2.0))
        self.assertEqual(summary["versions"]["2"]["statuses"], {"500": 1})
        self.assertEqual(summary["operations"]["browse"]["failed"], 0)


if __name__ == "__main__":
    unittest.main()
