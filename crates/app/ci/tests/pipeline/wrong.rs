//! What people get wrong in workflows, actions and manifests, and what they are told.

use wharf_client::Gvr;

use crate::platform::{Platform, WORKFLOW};

const WRONG: &str = "on: push
jobs:
  one:
    runs-on: wharf
    container: base/python
    steps:
      - uses: actions/checkout@v4
";

/// One error each: the file, the line, what, and what to do. A case is its title, its workflow, what it has for a second
/// manifest where that is not a good one, and what is told.
pub(crate) async fn what_is_wrong_is_told_with_its_place() {
    let platform = Platform::start().await;
    let workflow = |steps: &str| format!("{WRONG}{steps}");
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let composite = "inputs: {to: {required: true}}\nruns:\n  using: composite\n  steps:\n    - run: exit 0\n      shell: sh\n";
    let inner =
        "runs:\n  using: composite\n  steps:\n    - run: echo ${{ fromJSON('{') }}\n      shell: sh\n";
    let deploy = "      - uses: wharf/deploy@v1\n        with: {manifests: deploy}\n";
    let cases: [(&str, String, Option<&str>, &[&str]); 20] = [
        // Told before anything runs.
        (
            "labels",
            workflow("").replace("runs-on: wharf", "runs-on: windows-latest"),
            None,
            &[
                "failed: .github/workflows/ci.yml:4:14: no runner has the label 'windows-latest'",
                "hint: write 'runs-on: wharf'",
            ],
        ),
        (
            "no image",
            workflow("").replace("    container: base/python\n", ""),
            None,
            &[
                "failed: .github/workflows/ci.yml:3:3: the job 'one' names no image",
                "hint: add 'container: IMAGE'",
            ],
        ),
        (
            "an input of a local action",
            workflow("      - uses: ./actions/good\n"),
            None,
            &[
                "failed: .github/workflows/ci.yml:8:9: ./actions/good needs the input 'to'",
                "hint: add 'to: VALUE' under 'with'",
            ],
        ),
        (
            "a local action that is none",
            workflow("      - uses: ./actions/bad\n"),
            None,
            &["actions/bad/action.yml:4:3: unknown key 'stesp' in 'runs'", "hint: did you mean 'steps'?"],
        ),
        (
            "a value that is none",
            workflow(
                "      - uses: wharf/scan@v1\n        with:\n          image: shop\n          severity: hihg\n",
            ),
            None,
            &[
                "failed: .github/workflows/ci.yml:11:11: wharf/scan: 'severity': 'hihg' is no value of it",
                "hint: did you mean 'high'?",
            ],
        ),
        // Told when their turn comes.
        (
            "a value that is none and comes of an expression",
            workflow(
                "      - uses: wharf/deploy@v1\n        with:\n          manifests: deploy\n          timeout-minutes: ${{ github.ref_name }}\n",
            ),
            None,
            &[
                "Error: .github/workflows/ci.yml:11:11: wharf/deploy: 'timeout-minutes': 'main' is no number above 0",
                "hint: write a number of minutes",
            ],
        ),
        (
            "a reference that is not there",
            workflow("").replace("checkout@v4\n", "checkout@v4\n        with: {ref: mian}\n"),
            None,
            &["actions/checkout: shop has no 'mian'", "hint: did you mean 'main'?"],
        ),
        (
            "an image that is not there",
            workflow("").replace("base/python", "base/pyhton"),
            None,
            &[
                "Error: .github/workflows/ci.yml:5:16: no image 'base/pyhton:latest' in the store",
                "hint: did you mean 'base/python",
            ],
        ),
        (
            "a local action that is not there",
            workflow("      - uses: ./actions/godo\n"),
            None,
            &[
                "Error: .github/workflows/ci.yml:8:9: there is no action.yml in ./actions/godo",
                "hint: did you mean 'actions/good'?",
            ],
        ),
        (
            "a local action without checkout",
            WRONG.replace("actions/checkout@v4", "./actions/inner"),
            None,
            &[
                "Error: .github/workflows/ci.yml:7:9: there is no action.yml in ./actions/inner",
                "hint: the workspace is empty: add the step 'uses: actions/checkout@v4'",
            ],
        ),
        (
            "an expression in a local action",
            workflow("      - uses: ./actions/inner\n"),
            None,
            &["Error: actions/inner/action.yml:4:7: 'run': "],
        ),
        (
            "a folder of manifests that is not there",
            workflow(&deploy.replace("deploy}", "dploy}")),
            None,
            &[
                "Error: .github/workflows/ci.yml:8:9: wharf/deploy: cannot read the folder dploy",
                "hint: did you mean 'deploy'?",
            ],
        ),
        (
            "a folder of manifests that is like no other",
            workflow(&deploy.replace("deploy}", "nope}")),
            None,
            &[
                "cannot read the folder nope",
                "hint: there is no 'nope' in the workspace, only actions, case, deploy",
            ],
        ),
        (
            "an artifact that is not there",
            workflow(
                "      - run: touch wheel\n      - uses: actions/upload-artifact@v4\n        with: {name: wheels, path: wheel}\n      - uses: actions/download-artifact@v4\n        with: {name: dist}\n",
            ),
            None,
            &["the run has no artifact 'dist'", "hint: the run has: wheels"],
        ),
        (
            "an artifact without files",
            workflow(
                "      - uses: actions/upload-artifact@v4\n        with: {path: dist/*.whl, if-no-files-found: error}\n",
            ),
            None,
            &[
                "no files were found at dist/*.whl",
                "hint: there is no 'dist' in the workspace, only actions, case, deploy",
            ],
        ),
        (
            "an artifact that has no name",
            workflow("      - uses: actions/upload-artifact@v4\n        with: {name: a/b, path: case}\n"),
            None,
            &["'a/b' cannot be the name of an artifact", "hint: begin with a letter"],
        ),
        (
            "a manifest that is no YAML",
            workflow(deploy),
            Some("kind: A\nmetadata:\n  name: a: b\n"),
            &[
                "ci.yml:8:9: wharf/deploy: deploy/b.yaml:3:10: this is not YAML",
                "hint: put a text that holds ': ' into quotes",
            ],
        ),
        (
            "a kind nobody serves",
            workflow(deploy),
            Some("# two\napiVersion: v1\nkind: Deploymnet\nmetadata: {name: b}\n"),
            &["deploy/b.yaml:3:1: v1 has no kind Deploymnet", "hint: did you mean"],
        ),
        (
            "a kind of another version",
            workflow(deploy),
            Some("kind: Deployment\napiVersion: v1\nmetadata: {name: b}\n"),
            &["deploy/b.yaml:1:1: v1 has no kind Deployment", "hint: Deployment is in apps/v1"],
        ),
        (
            "an unknown field",
            workflow(deploy),
            Some("# two\napiVersion: v1\nkind: ConfigMap\nmetadata: {lables: {}, name: b}\n"),
            &[
                "deploy/b.yaml:4:12: cannot apply ConfigMap b: ",
                "metadata.lables",
                "hint: 'kubectl explain configmaps.metadata'",
            ],
        ),
    ];
    for (what, workflow, second, expected) in cases {
        let shown = platform
            .push(&[
                (WORKFLOW, &workflow),
                ("actions/good/action.yml", composite),
                ("actions/bad/action.yml", &composite.replace("steps", "stesp")),
                ("actions/inner/action.yml", inner),
                ("deploy/a.yaml", good),
                ("deploy/b.yaml", second.unwrap_or(good)),
                ("case", what),
            ])
            .await;
        for part in expected {
            assert!(shown.contains(part), "{what}: {part}\n{shown}");
        }
    }
    // Nothing is applied when something is wrong.
    let maps = Gvr::fixed("", "v1", "configmaps");
    assert_eq!(platform.client.get(&maps, "default", "a").await.unwrap(), None);
    platform.end().await;
}
