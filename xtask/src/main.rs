//! Maintainer tasks, run as `cargo xtask TASK`.

use std::process::ExitCode;

mod numbers;
mod protos;
mod schema;
mod test;

const USAGE: &str = "usage: cargo xtask test [ARGUMENTS OF CARGO TEST]
       cargo xtask schema DEFINITIONS.json K8S_PB_SRC OUT
  DEFINITIONS.json  `_definitions.json` of the PyPI package kubernetes-validate, folder v1.36.0-local
  K8S_PB_SRC        the `src` folder of the crate k8s-pb
  OUT               crates/model/api/schema/v1.36.tbl";

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some((task, rest)) = args.split_first()
        && task == "test"
    {
        return test::run(rest);
    }
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["schema", definitions, protos, out] => schema::write(definitions, protos, out),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
