use super::substitute::Quotes;
use super::*;
use crate::error::Error;

fn kinds(text: &str) -> Vec<Kind> {
    let file = Dockerfile::parse(&format!("FROM scratch\n{text}")).unwrap_or_else(|e| panic!("{text}: {e}"));
    file.stages[0].instructions.iter().map(|i| i.kind.clone()).collect()
}

fn error(text: &str) -> Error {
    match Dockerfile::parse(text) {
        Err(error) => error,
        Ok(file) => panic!("{text} was read as {file:?}"),
    }
}

fn shell(text: &str) -> Kind {
    let command = Command { exec: false, args: vec![text.into()], heredocs: Vec::new() };
    Kind::Run(Run {
        command,
        mounts: Vec::new(),
        devices: Vec::new(),
        network: Network::Default,
        insecure: false,
    })
}

#[test]
fn joins_continued_lines() {
    let text =
        "\u{feff}# escape=`\n# note\nFROM a AS b\nRUN one `\n# comment\n   two \\ `\n\n three\nRUN x``\n";
    let file = Dockerfile::parse(text).unwrap();
    assert_eq!(file.escape, '`');
    let texts: Vec<_> = file.stages[0].instructions.iter().map(|i| i.text.as_str()).collect();
    assert_eq!(texts, ["RUN one    two \\  three", "RUN x``"]);
    assert_eq!(file.stages[0].instructions[0].place, crate::error::Place { line: 4, end: 8 });
    assert_eq!(file.warnings.len(), 1);
}

#[test]
fn reads_shell_and_exec_forms() {
    assert_eq!(kinds("RUN echo  [hi]"), [shell("echo  [hi]")]);
    assert_eq!(kinds("RUN ['a']"), [shell("['a']")]);
    assert_eq!(kinds("RUN [\"a\""), [shell("[\"a\"")]);
    for (text, exec, args) in [
        (r#"CMD ["a", "b c"]"#, true, &["a", "b c"][..]),
        ("CMD []", true, &[]),
        ("CMD", false, &[]),
        ("cmd a b", false, &["a b"]),
    ] {
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        assert_eq!(kinds(text), [Kind::Cmd(Command { exec, args, heredocs: Vec::new() })], "{text}");
    }
}

#[test]
fn warns_of_exec_forms_that_are_none() {
    for (line, what) in [
        (r#"CMD ["a", b]"#, "CMD is no valid JSON array, so the shell runs it as written"),
        ("RUN ['a']", "RUN is no valid JSON array"),
        ("ENTRYPOINT [a, b]", "ENTRYPOINT is no valid JSON array"),
        (r#"CMD [ "a", 'b' ]"#, "CMD is no valid JSON array"),
        ("COPY ['a', '/']", "its words count as written"),
        ("VOLUME [/a]", "VOLUME is no valid JSON array"),
        ("HEALTHCHECK CMD ['a']", "HEALTHCHECK is no valid JSON array"),
        (r#"CMD ["a", "b"]"#, ""),
        ("RUN [ -f /x ] || [[ -d /y ]]", ""),
        (r#"RUN [ "$x" = y ]"#, ""),
        ("RUN [[ -d /y ]]", ""),
        ("ENV a=[b]", ""),
    ] {
        let file = Dockerfile::parse(&format!("FROM scratch\n{line}")).unwrap();
        let told: Vec<_> = file.warnings.iter().map(|w| (w.place.line, w.what.as_str())).collect();
        match (what, told.as_slice()) {
            ("", []) => {}
            (what, [(2, told)]) if !what.is_empty() && told.contains(what) => {}
            _ => panic!("{line}: {told:?}"),
        }
    }
}

#[test]
fn reads_pairs_in_both_forms() {
    for (text, pairs) in [
        (
            "ENV a=b c=\"d e\" f='g h' i=j\\ k",
            &[("a", "b"), ("c", "\"d e\""), ("f", "'g h'"), ("i", "j\\ k")][..],
        ),
        ("ENV name some  value", &[("name", "some  value")]),
        ("ENV a=", &[("a", "")]),
        ("ENV a=b=c \\\n  d=e", &[("a", "b=c"), ("d", "e")]),
    ] {
        let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(kinds(text), [Kind::Env(pairs)], "{text}");
    }
    let arg = kinds("ARG a b= c=\"d e\"");
    let expect =
        vec![("a".into(), None), ("b".into(), Some(String::new())), ("c".into(), Some("\"d e\"".into()))];
    assert_eq!(arg, [Kind::Arg(expect)]);
}

#[test]
fn reads_heredocs() {
    let heredoc = |name: &str, content: &str, expand, chomp| Heredoc {
        name: name.into(),
        content: content.into(),
        expand,
        chomp,
    };
    let run = |text: &str| match kinds(text).remove(0) {
        Kind::Run(run) => (run.command.args.concat(), run.command.heredocs),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        run("RUN <<EOF\n# no comment\na \\\nEOF\n"),
        ("<<EOF".into(), vec![heredoc("EOF", "# no comment\na \\\n", true, false)])
    );
    assert_eq!(
        run("RUN cat <<'E F' <<-\"X\"\n$a\nE F\n\tb\n\tX\n").1,
        [heredoc("E F", "$a\n", false, false), heredoc("X", "b\n", false, true)]
    );
    assert_eq!(run("RUN echo '<<EOF' \"<<EOF\"").1, []);
    assert_eq!(run("RUN x <<<EOF").1, []);
    let copy = kinds("COPY <<a <<b c /t/\n1\na\n2\nb\n");
    let [Kind::Copy(copy)] = copy.as_slice() else { panic!("{copy:?}") };
    assert_eq!(copy.heredocs, [heredoc("a", "1\n", true, false), heredoc("b", "2\n", true, false)]);
    assert_eq!((copy.sources.as_slice(), copy.target.as_str()), (&["c".to_owned()][..], "/t/"));
    assert_eq!(kinds("ONBUILD RUN <<E\nx\nE"), [Kind::OnBuild("RUN <<E\nx\nE".into())]);
}

#[test]
fn reads_flags_and_mounts() {
    let copy =
        kinds("COPY --from=x --chown=1:2 --chmod=755 --link --exclude=*.a --exclude=b --parents a b c/");
    let [Kind::Copy(copy)] = copy.as_slice() else { panic!("{copy:?}") };
    assert_eq!(
        (copy.from.as_deref(), copy.chown.as_deref(), copy.chmod.as_deref()),
        (Some("x"), Some("1:2"), Some("755"))
    );
    assert!(copy.link && copy.parents);
    assert_eq!(copy.exclude, ["*.a", "b"]);
    let mount =
        parse_mount("type=cache,\"target=/a,b\",id=$n,sharing=locked", Some(&|v| Ok(v.replace("$n", "N"))))
            .unwrap();
    assert_eq!(
        (mount.kind, mount.target.as_deref(), mount.id.as_deref()),
        (MountKind::Cache, Some("/a,b"), Some("N"))
    );
    assert_eq!((mount.sharing, mount.readonly), (Sharing::Locked, false));
    let health = kinds("HEALTHCHECK --interval=1m30s --retries=2 CMD a b");
    let [Kind::Healthcheck(health)] = health.as_slice() else { panic!("{health:?}") };
    assert_eq!((health.interval, health.retries), (90_000_000_000, 2));
    assert_eq!(health.test, ["CMD-SHELL", "a b"]);
}

#[test]
fn one_error_with_place_and_hint() {
    for (text, line, what, hint) in [
        ("FROM a\nRNU b", 2, "unknown instruction 'RNU'", "did you mean RUN?"),
        ("RUN a", 1, "no FROM before", "only ARG"),
        ("# c\n", 0, "no instructions", "FROM"),
        ("FROM a\nCOPY x", 2, "requires a source and a target", "SOURCE"),
        ("FROM a\nCOPY --form=b x y", 2, "does not know the flag '--form'", "did you mean --from?"),
        ("FROM a b", 1, "FROM takes", "write FROM a AS b, or FROM a"),
        ("FROM a\nWORKDIR", 2, "WORKDIR requires an argument", "write WORKDIR /path"),
        ("FROM a\nUSER", 2, "USER requires an argument", "write USER NAME, or USER NUMBER:NUMBER"),
        ("FROM a\nRUN", 2, "RUN requires a command", "RUN make"),
        ("FROM a\nARG =x", 2, "ARG needs a name", "ARG NAME=default"),
        ("FROM a\nENV =x", 2, "ENV needs a name", "ENV NAME=value"),
        ("FROM a\nVOLUME []", 2, "VOLUME requires", "VOLUME /data"),
        ("FROM a\nCOPY --link=maybe x y", 2, "is true or false", "write --link"),
        ("FROM a\nCOPY --from=a --from=b x y", 2, "is given twice", "keep one"),
        ("FROM a\nONBUILD ONBUILD RUN x", 2, "ONBUILD ONBUILD is not allowed", "write the instruction once"),
        ("FROM a\nHEALTHCHECK NONE x", 2, "takes no arguments", "only HEALTHCHECK NONE"),
        ("FROM a\nHEALTHCHECK CMD", 2, "requires a command", "HEALTHCHECK CMD COMMAND"),
        ("FROM a\nRUN --mount=type=secret b", 2, "a secret needs an id", "--secret id=NAME"),
        ("FROM a\nRUN --mount=type=cache,target=/a,size=1 b", 2, "size does not go with", "leave size out"),
        ("FROM a\nRUN \0 x", 2, "NUL byte", "save the Dockerfile as UTF-8"),
        ("FROM a AS 1b", 1, "cannot be the name of a stage", "begin with a letter"),
        ("FROM a\nRUN <<EOF\nx", 2, "does not end", "only 'EOF'"),
        ("FROM a\nENV x", 2, "has no value", "NAME=value"),
        ("FROM a\nENV x=1 y", 2, "cannot read 'y'", ""),
        ("FROM a\nSHELL sh", 2, "SHELL requires a JSON array", ""),
        ("FROM a\nCMD [\"a\", 1]", 2, "texts only", ""),
        (
            "FROM a\nONBUILD FROM b",
            2,
            "ONBUILD FROM is not allowed",
            "write FROM in the Dockerfile that builds on this image",
        ),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x", 2, "not a duration", "30s"),
        ("FROM a\nRUN --mount=type=bnid,target=/a b", 2, "the type 'bnid'", "did you mean bind?"),
        (
            "FROM a\nRUN --mount=type=cache,target=/c,source=/x b",
            2,
            "source of a cache needs from",
            "from=STAGE",
        ),
        ("FROM a\nRUN --security=all b", 2, "--security=all is not known", "sandbox or insecure"),
        ("# escape=x\nFROM a", 1, "escape character", ""),
        ("# escape=`\n# escape=`\nFROM a", 2, "given twice", ""),
    ] {
        let error = error(text);
        assert_eq!(error.place.map_or(0, |place| place.line), line, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
        assert!(error.hint.as_deref().is_some_and(|given| given.contains(hint)), "{text}: {:?}", error.hint);
    }
}

#[test]
fn substitutes_variables() {
    let variables = |name: &str| match name {
        "a" => Some("foobar".to_owned()),
        "path" => Some("/x/y/file.tar.gz".to_owned()),
        "empty" => Some(String::new()),
        "two" => Some("one two".to_owned()),
        _ => None,
    };
    for (text, expect) in [
        ("$a-${a}", "foobar-foobar"),
        ("\\$a '$a' \"$a\"", "$a $a foobar"),
        ("${no:-x$a}|${no-x}|${empty:-x}|${empty-x}", "xfoobar|x|x|"),
        ("${a:+y}|${no:+y}|${empty:+y}|${empty+y}", "y|||y"),
        (
            "${path#*/}|${path##*/}|${path%.*}|${path%%.*}",
            "x/y/file.tar.gz|file.tar.gz|/x/y/file.tar|/x/y/file",
        ),
        ("${a/o/0}|${a//o/0}|${a/o*/-}|${a//x/y}", "f0obar|f00bar|f-|foobar"),
        ("${path//\\//_}", "_x_y_file.tar.gz"),
        ("${a:?no}", "foobar"),
        ("$", "$"),
        ("a$-b", "ab"),
        ("$no$1x", "x"),
        ("$001y|${0:-z}", "y|z"),
        ("a\\ b 'c d'", "a b c d"),
        ("\"a\\\"b\\c\"", "a\"b\\c"),
        ("${no:-${a:-x}}", "foobar"),
    ] {
        let got = Expander::new('\\').text(text, &variables);
        assert_eq!(got.as_deref().ok(), Some(expect), "{text}");
    }
    for (text, what, hint) in [
        ("${a", "'}' is missing", "close it: ${NAME}"),
        ("${a/b", "'/' is missing", "write ${NAME/FROM/TO}"),
        ("${}", "bad substitution", "write a name"),
        ("${a:x}", "is no operator", "use :-"),
        ("${a~}", "is no operator", "use :-"),
        ("${no:?is wrong}", "no: is wrong", "--build-arg no=…"),
        ("'a", "is not closed", "add the closing '"),
        ("${a%\\x}", "bad escape", "stands only before"),
    ] {
        let error = Expander::new('\\').text(text, &variables).unwrap_err();
        assert!(error.what.contains(what), "{text}: {error}");
        assert!(error.hint.as_ref().is_some_and(|given| given.contains(hint)), "{text}: {:?}", error.hint);
    }
    let words = Expander::new('\\').words("a $two \"$two\" b\\ c '' d", &variables).unwrap();
    assert_eq!(words, ["a", "one", "two", "one two", "b c", "d"]);
    let heredoc = Expander::for_heredoc('\\').text("'$a' \"\\$a\" it's", &variables).unwrap();
    assert_eq!(heredoc, "'foobar' \"$a\" it's");
    let raw = Expander { quotes: Quotes::Raw, raw_escapes: true, keep_unset: true, escape: '\\' };
    assert_eq!(raw.text("'x' \"$no\" \\a ${no:-b}", &variables).unwrap(), "'x' \"$no\" \\a ${no:-b}");
}

#[test]
fn control_characters_are_told_by_their_numbers() {
    let error = error("FROM a\n\u{1b}[2Jx b");
    assert_eq!(error.to_string(), "line 2: unknown instruction '\\u{1b}[2JX'");
    let hint = Error::invalid("x").hint("a\u{7}b").hint;
    assert_eq!(hint.as_deref(), Some("a\\u{7}b"));
}

#[test]
fn does_not_grow_without_bound() {
    let long = "x".repeat(600_000);
    let error = Expander::new('\\').text("$a$a", &|_| Some(long.clone())).unwrap_err();
    assert!(error.what.contains("more than"), "{error}");
    let deep = format!("{}x{}", "${a:-".repeat(60), "}".repeat(60));
    assert!(Expander::new('\\').text(&deep, &|_| None).is_err());
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "(FROM a\n)?[A-Z]{2,6} ?[-<>$\\\\{}\\[\\]:%#/'\"=,a-c \n\t`]{0,80}") {
        let _ = Dockerfile::parse(&text);
    }

    #[test]
    fn substitution_never_panics(text in "[-$\\\\{}:%#/'\"a-c *?+]{0,60}") {
        let _ = Expander::new('\\').expand(&text, &|name| (name == "a").then(|| "abcabc/".to_owned()));
    }
}
