#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Each rule of tools/tidy on a small tree that breaks it, and on one that does not."""
import importlib.machinery
import importlib.util
import os
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
loader = importlib.machinery.SourceFileLoader("tidy", os.path.join(HERE, "tidy"))
spec = importlib.util.spec_from_loader("tidy", loader)
tidy = importlib.util.module_from_spec(spec)
loader.exec_module(tidy)

SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"


class TidyTest(unittest.TestCase):
    def findings(self, files, rule):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w") as f:
                    f.write(text)
            return [(f.rule, f.path, f.line) for f in rule(tidy.Tree(root))]

    def test_function_length(self):
        body = "    a();\n" * 69
        good = f"static int f(int x)\n{{\n{body[:-18]}}}\n"
        self.assertEqual(self.findings({"x.c": good}, tidy.rule_size), [])
        self.assertEqual(self.findings({"x.c": f"int f(void) {{\n{body}}}\n"}, tidy.rule_size),
                         [("function-length", "x.c", 1)])

    def test_tables_are_not_functions(self):
        rows = "    ROW(A, B, c),\n" * 90
        self.assertEqual(self.findings({"x.c": f"const struct row t[COUNT(x)] = {{\n{rows}}};\n"}, tidy.rule_size), [])

    def test_nesting(self):
        deep = "void f(void) {\n if (a)\n  for (;;) {\n   while (b) {\n    if (c) { d(); }\n   }\n  }\n}\n"
        self.assertEqual(self.findings({"x.c": deep}, tidy.rule_size), [("nesting", "x.c", 5)])
        chain = "void f(void) {\n" + " if (a) b(); else" * 9 + " c();\n}\n"
        self.assertEqual(self.findings({"x.c": chain}, tidy.rule_size), [])
        macro = "void f(void) {\n EACH(a) {\n  EACH(b) {\n   EACH(c) {\n    EACH(d) {\n    }\n   }\n  }\n }\n}\n"
        self.assertEqual(self.findings({"x.c": macro}, tidy.rule_size), [("nesting", "x.c", 5)])
        flat = "void f(void) {\n switch (a) {\n case B: {\n  if (c) { x = (struct y){.z = 1}; }\n  break;\n }\n }\n}\n"
        self.assertEqual(self.findings({"x.c": flat}, tidy.rule_size), [])

    def test_several_functions_are_kept_apart(self):
        text = "int a(void) { return 1; }\nstruct s { int x; };\nTest(suite, name, .timeout = 2) {\n b();\n}\n"
        self.assertEqual([f[:3] for f in tidy.c_functions(text)], [("a", 1, 1), ("Test", 3, 5)])

    def test_lines(self):
        self.assertEqual(self.findings({"x.c": "a" * 121 + "\n"}, tidy.rule_lines), [("line-length", "x.c", 1)])
        self.assertEqual(self.findings({"x.c": "ok \n"}, tidy.rule_lines), [("trailing-space", "x.c", 1)])
        self.assertEqual(self.findings({"x.c": "ok"}, tidy.rule_lines), [("end-of-file", "x.c", 1)])

    def test_words(self):
        self.assertEqual(self.findings({"x.c": "/* TO" "DO: later */\n"}, tidy.rule_words), [("banned-word", "x.c", 1)])
        self.assertEqual(self.findings({"x.c": "#if 0\n#endif\n"}, tidy.rule_words), [("dead-code", "x.c", 1)])
        self.assertEqual(self.findings({"x.c": "\nsprintf(a, b);\n"}, tidy.rule_words), [("banned-call", "x.c", 2)])
        self.assertEqual(self.findings({"x.c": "/* not gets() */ fgets(a); snprintf(b);\n"}, tidy.rule_words), [])
        self.assertEqual(self.findings({"a.md": "see /wo" "rk/main\n"}, tidy.rule_words), [("machine-path", "a.md", 1)])
        self.assertEqual(self.findings({"x_test.c": "usleep(1);\n"}, tidy.rule_words),
                         [("sleep-in-test", "x_test.c", 1)])

    def test_licence(self):
        self.assertEqual(self.findings({"x.c": "int a;\n"}, tidy.rule_licence), [("licence", "x.c", 1)])
        self.assertEqual(self.findings({"x.c": SPDX}, tidy.rule_licence), [])

    def test_arrows(self):
        def arrow(path, target):
            return self.findings({path: f'#include "{target}"\n', target: ""}, tidy.rule_includes)
        for path, target in [("engines/udp/udp.c", "engines/ip/ip_table.h"), ("engines/udp/udp.c", "proto/usher_shm.h"),
                             ("nicbackend/a.c", "engines/pkt.h"), ("clientlib/a.c", "dataplane/core/runtime.h"),
                             ("dataplane/core/a.c", "control/config.h"),
                             ("dataplane/core/a.c", "engines/ip/ip_table.h"),
                             ("proto/usher_shm.h", "engines/pkt.h")]:
            self.assertEqual(arrow(path, target), [("arrow", path, 1)])
        for path, target in [("engines/udp/udp.c", "engines/udp/udp_cmd.h"), ("engines/udp/udp.c", "engines/wire.h"),
                             ("dataplane/core/a.c", "engines/udp/udp_cmd.h"), ("clientlib/a.c", "proto/usher_shm.h"),
                             ("control/a.c", "dataplane/core/runtime.h"), ("dataplane/port/a.c", "nicbackend/claims.h"),
                             ("dataplane/core/a_test.c", "test/harness/fake_client.h")]:
            self.assertEqual(arrow(path, target), [])

    def test_readme(self):
        self.assertEqual(self.findings({"room/x.c": SPDX}, tidy.rule_readme), [("readme", "room", 1)])
        self.assertEqual(self.findings({"room/x.c": SPDX, "room/README.md": "x\n"}, tidy.rule_readme), [])

    def test_documents(self):
        tree = {"room/x.c": "void room_go(void);\n", "room/README.md": "Read `x.c`, `room/x.c`; `room_go()`; `a/b`.\n"}
        self.assertEqual(self.findings(tree, tidy.rule_documents), [])
        tree["room/README.md"] = "Read `y.c`, `room/z`,\n`room_stop()` and [this](w.md).\n"
        self.assertEqual([f[2] for f in self.findings(tree, tidy.rule_documents)], [1, 1, 2, 2])

    def test_subject(self):
        for good in ("udp: add the socket table", "dataplane/core: sleep in one wait", "ip, udp: share the hash"):
            self.assertIsNone(tidy.subject_problems(good))
        for bad in ("add things", "udp: Add things", "udp: add things.", "udp: " + "x" * 60):
            self.assertIsNotNone(tidy.subject_problems(bad))

    def test_headers(self):
        self.assertEqual(self.findings({"a.h": "struct b *f(size_t n);\n"}, tidy.rule_headers), [("header", "a.h", 1)])
        self.assertEqual(self.findings({"a.h": "#include <stddef.h>\nint f(size_t n);\n"}, tidy.rule_headers), [])

    def test_allowed(self):
        files = {"x.c": "#if 0\n#endif\n", "tools/tidy.allow": "dead-code x.c for the test\n"}
        quiet = [f for f in self.findings(files, tidy.check) if f[0] in ("dead-code", "allow")]
        self.assertEqual(quiet, [])
        files["x.c"] = "int a;\n"
        quiet = [f for f in self.findings(files, tidy.check) if f[0] in ("dead-code", "allow")]
        self.assertEqual(quiet, [("allow", "tools/tidy.allow", 1)])


if __name__ == "__main__":
    unittest.main()
