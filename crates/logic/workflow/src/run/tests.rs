use std::fmt::Write as _;

use wharf_base::Timestamp;

use super::{Action, Event, Outcome, Phase, Run, step};
use crate::{
    expr::{Object, Value},
    model::Workflow,
    read_workflow,
};

fn workflow(jobs: &str) -> Workflow {
    let text = format!("on: push\njobs:\n{jobs}");
    read_workflow("w.yml", &text).unwrap_or_else(|problems| panic!("{problems}"))
}

fn base() -> Object {
    let mut github = Object::new();
    github.set("ref", "refs/heads/main");
    let mut base = Object::new();
    base.set("github", github);
    base
}

/// A run whose actions are told as a line: `+key` started, `-key` stopped.
struct Driver {
    workflow: Workflow,
    run: Run,
    seconds: i64,
}

impl Driver {
    fn new(jobs: &str) -> Self {
        let workflow = workflow(jobs);
        let run = Run::new(&workflow);
        Self { workflow, run, seconds: 0 }
    }

    fn feed(&mut self, events: &[Event]) -> String {
        let now = Timestamp::from_unix(self.seconds, 0);
        let mut line = String::new();
        for action in step(&self.workflow, &base(), &mut self.run, events, now) {
            let _ = match action {
                Action::Start { key } => write!(line, "+{key} "),
                Action::Stop { key, why } => write!(line, "-{key}:{why:?} "),
                Action::WakeAt(_) => Ok(()),
            };
        }
        line.trim_end().to_owned()
    }

    fn done(&mut self, key: &str, outcome: Outcome) -> String {
        let outputs = vec![("version".to_owned(), format!("of {key}"))];
        self.feed(&[Event::Finished { key: key.into(), outcome, outputs, message: None }])
    }

    fn results(&self) -> String {
        self.run
            .jobs
            .iter()
            .map(|job| format!("{}={} ", job.id, job.result.map_or("-", Outcome::as_str)))
            .collect::<String>()
    }
}

const STEPS: &str = "runs-on: wharf, steps: [{run: x}]";

#[test]
fn jobs_start_when_their_needs_are_done() {
    let mut driver = Driver::new(&format!(
        "  a: {{{STEPS}}}\n  b: {{needs: a, {STEPS}}}\n  c: {{needs: a, name: '${{{{ needs.a.outputs.version }}}}', {STEPS}}}\n  d: {{needs: [b, c], {STEPS}}}\n"
    ));
    assert_eq!(driver.feed(&[]), "+a");
    assert_eq!(driver.feed(&[]), "");
    assert_eq!(driver.done("a", Outcome::Success), "+b +c");
    assert_eq!(driver.run.instance("c").unwrap().name, "of a");
    assert_eq!(driver.done("b", Outcome::Success), "");
    assert_eq!(driver.done("c", Outcome::Success), "+d");
    assert_eq!(driver.run.outcome(), None);
    driver.done("d", Outcome::Success);
    assert_eq!(driver.run.outcome(), Some(Outcome::Success));
}

#[test]
fn a_failure_skips_what_needs_it_unless_it_asks() {
    let mut driver = Driver::new(&format!(
        "  a: {{{STEPS}}}\n  b: {{needs: a, {STEPS}}}\n  c: {{needs: b, if: always(), {STEPS}}}\n  d: {{needs: b, if: failure(), {STEPS}}}\n  e: {{if: false, {STEPS}}}\n  f: {{needs: e, {STEPS}}}\n"
    ));
    assert_eq!(driver.feed(&[]), "+a");
    assert_eq!(driver.done("a", Outcome::Failure), "+c +d");
    driver.done("c", Outcome::Success);
    driver.done("d", Outcome::Success);
    assert_eq!(driver.results(), "a=failure b=skipped c=success d=success e=skipped f=skipped ");
    assert_eq!(driver.run.outcome(), Some(Outcome::Failure));
}

#[test]
fn a_matrix_fails_fast_and_keeps_its_limit() {
    let matrix = "strategy: {max-parallel: 2, matrix: {n: [1, 2, 3]}}";
    let mut driver = Driver::new(&format!("  a: {{{matrix}, {STEPS}}}\n"));
    assert_eq!(driver.feed(&[]), "+a.0 +a.1");
    assert_eq!(driver.run.instance("a.0").unwrap().name, "a (1)");
    assert_eq!(driver.done("a.0", Outcome::Failure), "-a.1:FailFast");
    assert_eq!(driver.run.instance("a.2").unwrap().phase, Phase::Done(Outcome::Cancelled));
    driver.done("a.1", Outcome::Cancelled);
    assert_eq!(driver.run.outcome(), Some(Outcome::Failure));

    let matrix = matrix.replace("max-parallel", "fail-fast: false, max-parallel");
    let mut driver = Driver::new(&format!("  a: {{{matrix}, {STEPS}}}\n"));
    assert_eq!(driver.feed(&[]), "+a.0 +a.1");
    assert_eq!(driver.done("a.0", Outcome::Failure), "+a.2");

    let mut driver =
        Driver::new(&format!("  a: {{continue-on-error: true, {STEPS}}}\n  b: {{needs: a, {STEPS}}}\n"));
    driver.feed(&[]);
    assert_eq!(driver.done("a", Outcome::Failure), "+b");
}

#[test]
fn time_and_cancellation_stop_jobs() {
    let mut driver = Driver::new(&format!(
        "  a: {{timeout-minutes: 2, {STEPS}}}\n  b: {{needs: a, if: cancelled(), {STEPS}}}\n  c: {{needs: a, {STEPS}}}\n"
    ));
    assert_eq!(driver.feed(&[]), "+a");
    driver.seconds = 119;
    assert_eq!(driver.feed(&[]), "");
    driver.seconds = 120;
    assert_eq!(driver.feed(&[]), "-a:TimedOut");
    assert_eq!(driver.feed(&[Event::Cancel]), "");
    assert_eq!(driver.done("a", Outcome::Cancelled), "+b");
    assert_eq!(driver.run.instance("a").unwrap().message.as_deref(), Some("it took longer than 2 minutes"));
    driver.done("b", Outcome::Success);
    assert_eq!(driver.results(), "a=cancelled b=success c=skipped ");
    assert_eq!(driver.run.outcome(), Some(Outcome::Cancelled));
}

#[test]
fn matrices_combine_include_and_exclude() {
    let names = |matrix: &str| {
        let mut driver = Driver::new(&format!("  a: {{strategy: {{matrix: {matrix}}}, {STEPS}}}\n"));
        driver.feed(&[]);
        let job = &driver.run.jobs[0];
        job.message.clone().unwrap_or_else(|| {
            job.instances.iter().map(|i| i.matrix.to_json().to_string()).collect::<Vec<_>>().join(" ")
        })
    };
    assert_eq!(names("{a: [1, 2], b: [x]}"), r#"{"a":1,"b":"x"} {"a":2,"b":"x"}"#);
    assert_eq!(names("{a: [1, 2], exclude: [{a: 1}]}"), r#"{"a":2}"#);
    assert_eq!(
        names("{a: [1, 2], include: [{c: z}, {a: 2, d: w}, {a: 3}]}"),
        r#"{"a":1,"c":"z"} {"a":2,"c":"z","d":"w"} {"a":3}"#
    );
    assert_eq!(names("{include: [{a: 1}, {a: 2}]}"), r#"{"a":1} {"a":2}"#);
    assert_eq!(names(r#"'${{ fromJSON(''{"v": [1]}'') }}'"#), r#"{"v":1}"#);
    assert_eq!(
        names("'${{ 1 }}'"),
        "w.yml:3:3: 'matrix' of the job 'a': the expression gives a Number\n  hint: give a mapping of lists, such as {\"os\": [\"a\", \"b\"]}"
    );
    assert_eq!(
        names("{a: [1], exclude: [{a: 1}]}"),
        "w.yml:3:3: 'matrix' of the job 'a': it has no combination\n  hint: give a value to each of its lists, or exclude less"
    );
    assert_eq!(
        names("{a: [1], include: [1]}"),
        "w.yml:3:3: 'matrix' of the job 'a': an entry of 'include' is no mapping but a Number\n  hint: give each entry as names with values, such as {\"os\": \"a\"}"
    );
    let many = format!("[{}]", vec!["1"; 200].join(", "));
    assert_eq!(
        names(&format!("{{a: {many}, b: {many}}}")),
        "w.yml:3:3: 'matrix' of the job 'a': it has more than 10000 combinations\n  hint: make its lists shorter"
    );
}

#[test]
fn what_is_wrong_with_a_job_is_told_with_its_place_and_what_to_do() {
    for (setting, expected) in [
        ("if: \"fromJSON('{')\"", "'if' of the job 'b': "),
        (
            "continue-on-error: '${{ needs.a.outputs.version }}'",
            "'continue-on-error' of the job 'b': 'of a' is neither true nor false\n  hint: write true or false, or an expression that gives one of them",
        ),
        (
            "strategy: {fail-fast: '${{ needs.a.outputs.version }}'}",
            "'fail-fast' of the job 'b': 'of a' is neither true nor false\n  hint: write true or false",
        ),
        (
            "strategy: {max-parallel: '${{ needs.a.outputs.version }}'}",
            "'max-parallel' of the job 'b': 'of a' is not a number above 0\n  hint: write a number such as 10",
        ),
        (
            "timeout-minutes: '${{ needs.a.outputs.version }}'",
            "'timeout-minutes' of the job 'b': 'of a' is not a number above 0\n  hint: write a number such as 10",
        ),
    ] {
        let mut driver = Driver::new(&format!("  a: {{{STEPS}}}\n  b: {{needs: a, {setting}, {STEPS}}}\n"));
        driver.feed(&[]);
        driver.done("a", Outcome::Success);
        assert_eq!(driver.results(), "a=success b=failure ", "{setting}");
        let message = driver.run.jobs[1].message.clone().unwrap();
        assert!(message.starts_with(&format!("w.yml:4:3: {expected}")), "{setting}: {message}");
        assert!(message.contains("\n  hint: "), "{setting}: {message}");
    }
}

#[test]
fn state_survives_being_written_down() {
    let mut driver = Driver::new(&format!("  a: {{strategy: {{matrix: {{n: [1, x]}}}}, {STEPS}}}\n"));
    driver.feed(&[]);
    let text = serde_json::to_string(&driver.run).unwrap();
    let read: Run = serde_json::from_str(&text).unwrap();
    assert_eq!(read.instance("a.1").unwrap().matrix.get("n").to_text(), "x");
    assert!(matches!(read.instance("a.0").unwrap().matrix.get("n"), Value::Number(_)));
}
