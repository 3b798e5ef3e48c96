use super::{read_action, read_workflow};
use crate::model::{ActionRef, Matrix, Work};

const SAMPLE: &str = include_str!("../../../../../examples/shop/.github/workflows/ci.yml");
const SAMPLE_ACTION: &str = include_str!("../../../../../examples/shop/.github/actions/install/action.yml");

#[test]
fn reads_the_sample() {
    let workflow = read_workflow("ci.yml", SAMPLE).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(workflow.warnings, []);
    let ids: Vec<&str> = workflow.jobs.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(ids, ["lint", "unit", "integration", "image", "staging", "production"]);
    let push = workflow.on.push.unwrap();
    assert!(push.matches("refs/heads/main", None) && !push.matches("refs/heads/x", None));
    let unit = &workflow.jobs[1];
    assert!(matches!(&unit.strategy.matrix, Some(Matrix::Parts { dimensions, .. }) if dimensions.len() == 1));
    let steps: Vec<&str> = unit.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(steps, ["__actions_checkout", "__actions_download-artifact", "deps", "__run"]);
    let Work::Uses { action, .. } = &unit.steps[2].work else { panic!() };
    assert_eq!(*action, ActionRef::Local(".github/actions/install".into()));
    let action = read_action("action.yml", SAMPLE_ACTION).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((action.inputs.len(), action.outputs.len(), action.steps.len()), (1, 1, 1));
}

fn check(text: &str, expected: &str) {
    let seen = match read_workflow("w.yml", text) {
        Ok(workflow) => workflow.warnings.iter().map(|w| format!("warning: {w}\n")).collect::<String>(),
        Err(problems) => problems.to_string(),
    };
    assert_eq!(seen.trim_end(), expected, "{text}");
}

fn job(lines: &str) -> String {
    format!("on: push\njobs:\n  a:\n    runs-on: wharf\n{lines}")
}

#[test]
fn says_what_is_wrong_and_where() {
    check(
        "",
        "w.yml:1:1: the file is empty\n  hint: write what the file is for, or remove it from the repository",
    );
    check(
        "on: [push\njobs: {}",
        "w.yml:2:5: this is not YAML: illegal placement of ':' indicator\n  hint: close '[' with ']' and '{' with '}' before the next key; put a text that begins with one of them into quotes",
    );
    check(
        "on: psuh\njobs: {a: {runs-on: wharf, steps: [{run: x}]}}",
        "w.yml:1:5: unknown event 'psuh'\n  hint: did you mean 'push'?",
    );
    check(
        &job("    stesp: []\n    steps:\n      - run: echo\n"),
        "w.yml:5:5: unknown key 'stesp' in the job 'a'\n  hint: did you mean 'steps'?",
    );
    check(
        &job("    steps:\n      - run: echo ${{ gitub.sha }}\n"),
        "w.yml:6:23: there is no 'gitub' here in the expression 'gitub.sha'\n  hint: did you mean 'github'?",
    );
    check(
        &job("    steps:\n      - run: |\n          one\n          two ${{ 1 + }}\n"),
        "w.yml:8:1: '+' is not understood in the expression '1 +'\n  hint: expressions have no arithmetic: compute in a 'run' step and give the result as an output",
    );
    check(
        &job(
            "    needs: buidl\n    steps: [{run: x}]\n  build:\n    runs-on: wharf\n    steps: [{run: x}]\n",
        ),
        "w.yml:5:12: 'needs' names the job 'buidl', which is not there\n  hint: did you mean 'build'?",
    );
    check(
        &job(
            "    needs: b\n    steps: [{run: x}]\n  b:\n    needs: a\n    runs-on: wharf\n    steps: [{run: x}]\n",
        ),
        "w.yml:3:3: the job 'a' needs itself, by way of others\n  hint: break the circle of 'needs'",
    );
    check(
        &job("    if: ${{ secrets.x }}\n    steps: [{run: x, uses: a/b@v1}, {}]\n"),
        "w.yml:5:13: there is no 'secrets' here in the expression 'secrets.x'\n  hint: here are known: github, needs, vars, inputs\n\
         w.yml:6:28: a step has either 'run' or 'uses', not both\n  hint: make two steps of it, each with its own '- '\n\
         w.yml:6:37: the step has neither 'run' nor 'uses'\n  hint: add 'run: COMMAND' for a script, or 'uses: ACTION' for an action",
    );
    check(
        &job("    services: {db: {image: x}}\n    steps: [{run: x}]\n"),
        "w.yml:5:15: 'services' are not started for jobs yet\n  hint: start the service in a step, or use one that runs in the cluster",
    );
    check(
        "on: {push: {branches: [a], branches-ignore: [b]}, schedule: [{cron: '* * * * *'}]}\njobs: {a: {runs-on: wharf, steps: [{run: x}]}}",
        "w.yml:1:45: 'branches' and 'branches-ignore' cannot stand together\n  hint: use '!' patterns in 'branches'",
    );
    check(
        "on: [push, schedule]\njobs: {a: {runs-on: wharf, steps: [{run: x}]}}",
        "warning: w.yml:1:12: the event 'schedule' never happens here; it is left out",
    );
}

/// Everything that can be wrong comes with what to do, each on a line of its own.
#[test]
fn every_problem_has_a_hint() {
    let steps = |lines: &str| job(&format!("    steps:\n{lines}"));
    for (text, at, what, hint) in [
        ("on: push\n".to_owned(), "1:1", "the workflow has no 'jobs'", "write 'jobs:'"),
        ("on: push\njobs: {}\n".into(), "2:7", "the workflow has no jobs", "write the name of a job"),
        ("jobs: {a: {runs-on: wharf, steps: [{run: x}]}}\n".into(), "1:1", "no 'on'", "on: push"),
        (job(""), "4:5", "the job 'a' has no 'steps'", "add 'steps:'"),
        (job("    steps: []\n"), "5:12", "there are no steps", "- run: make"),
        (job("    env: [x]\n    steps: [{run: x}]\n"), "5:10", "'env' must be a mapping", "KEY: VALUE"),
        (job("    steps: {run: x}\n"), "5:12", "'steps' must be a list", "- ITEM"),
        (
            job("    timeout-minutes: soon\n    steps: [{run: x}]\n"),
            "5:22",
            "'timeout-minutes' must be a number above 0, not 'soon'",
            "such as 10",
        ),
        (
            job("    strategy: {matrix: {os: linux}}\n    steps: [{run: x}]\n"),
            "5:29",
            "'os' of the matrix must be a list, not a text",
            "write 'os: [linux]'",
        ),
        (
            job("    runs-on: x\n    steps: [{run: x}]\n"),
            "5:5",
            "the key 'runs-on' stands here twice",
            "keep one of them",
        ),
        (
            steps("      - run: x\n        shell: pwsh\n"),
            "7:16",
            "the shell 'pwsh' is not supported",
            "use sh, bash, python, or a command with {0}",
        ),
        (
            steps("      - run: x\n        shell: bsh\n"),
            "7:16",
            "the shell 'bsh' is not supported",
            "did you mean 'bash'?",
        ),
        (
            job("    defaults: {run: {shell: cmd}}\n    steps: [{run: x}]\n"),
            "5:29",
            "the shell 'cmd' is not supported",
            "use sh, bash, python",
        ),
        ("on: push\n\tjobs: {}\n".into(), "1:5", "this is not YAML", "indent with spaces"),
        ("on: 'push\njobs: {}\n".into(), "1:5", "this is not YAML", "close the quote"),
        ("on: push\n  jobs:\n".into(), "2:7", "this is not YAML", "put a text that holds ': ' into quotes"),
        (
            "on: *push\n".into(),
            "1:5",
            "this is not YAML",
            "put a text that begins with '*' or '&' into quotes",
        ),
        ("on: @push\n".into(), "1:5", "this is not YAML", "put a text that begins with '@'"),
        ("on: push\njobs\nx: 1\n".into(), "", "this is not YAML", "write 'KEY: VALUE' with a space"),
        ("a: 1\n---\nb: 1\n".into(), "2:1", "more than one document", "take out the line '---'"),
    ] {
        let problems = read_workflow("w.yml", &text).unwrap_err();
        let found = problems.0.iter().any(|problem| {
            let shown = problem.to_string();
            shown.starts_with(&format!("w.yml:{at}"))
                && problem.message.contains(what)
                && problem.hint.as_ref().is_some_and(|given| given.contains(hint))
        });
        assert!(found, "{text}\n{problems}");
        assert!(problems.0.iter().all(|problem| problem.hint.is_some()), "{problems}");
    }
    for (shell, good) in [("bash", true), ("perl {0}", true), ("${{ matrix.shell }}", true), ("zsh", false)] {
        let read = read_workflow("w.yml", &steps(&format!("      - run: x\n        shell: '{shell}'\n")));
        assert_eq!(read.is_ok(), good, "{shell}");
    }
    let problems = read_action("action.yml", "name: x\n").unwrap_err().to_string();
    assert!(
        problems.starts_with("action.yml:1:1: the action has no 'runs'\n  hint: write 'runs:'"),
        "{problems}"
    );
}

#[test]
fn the_place_of_each_input_is_known() {
    let text = job("    steps:\n      - uses: a/b@v1\n        with:\n          x: 1\n          y: 2\n");
    let workflow = read_workflow("w.yml", &text).unwrap();
    let Work::Uses { with, places, .. } = &workflow.jobs[0].steps[0].work else { panic!() };
    let seen: Vec<_> =
        with.iter().zip(places).map(|((name, _), at)| (name.as_str(), at.line, at.column)).collect();
    assert_eq!(seen, [("x", 8, 11), ("y", 9, 11)]);
}

#[test]
fn actions_of_other_sorts_are_refused() {
    let error = read_action("action.yml", "name: x\nruns: {using: node20, main: index.js}").unwrap_err();
    assert!(error.to_string().starts_with("action.yml:2:15: actions that run by 'node20' are not supported"));
}

#[test]
fn aliases_are_bounded() {
    let mut text = String::from("a: &a0 [x]\n");
    for level in 1..30 {
        text += &format!("b{level}: &a{level} [*a{0}, *a{0}, *a{0}, *a{0}]\n", level - 1);
    }
    let error = read_workflow("w.yml", &text).unwrap_err();
    assert!(error.to_string().contains("more than 50000 values"), "{error}");
}

/// Damaged files give problems, never a panic.
#[test]
fn damaged_files_do_not_panic() {
    let mut random = 88_172_645_463_325_252_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let pieces = ["${{", "}}", ": ", "- ", "*", "&a", "\n", "'", "[", "{", "|", "!", "é", "\t", "  "];
    for _ in 0..1500 {
        let mut text: Vec<char> = SAMPLE.chars().collect();
        for _ in 0..1 + next(4) {
            let at = next(text.len());
            match next(3) {
                0 => drop(text.drain(at..(at + next(40)).min(text.len()))),
                1 => drop(text.splice(at..at, pieces[next(pieces.len())].chars())),
                _ => text.truncate(at.max(10)),
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(workflow) = read_workflow("w.yml", &text) {
            let mut run = crate::run::Run::new(&workflow);
            crate::run::step(
                &workflow,
                &crate::expr::Object::new(),
                &mut run,
                &[],
                wharf_base::Timestamp::EPOCH,
            );
        }
    }
}
