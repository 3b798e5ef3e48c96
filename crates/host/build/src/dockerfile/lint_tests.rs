use super::*;

fn check(text: &str, ignore: &str, expect: &[(usize, &str)]) {
    let file = Dockerfile::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let checks = file.checks().unwrap();
    let facts = Facts {
        base: &|name| (name == "known").then(|| vec!["HOME".to_owned()]),
        ignore: &Ignore::parse(ignore).unwrap(),
        contexts: &|name| name == "named",
        arguments: &crate::build::platform_args(&Platform::host()),
        other_platform: &|name, wanted| {
            let other = Platform { architecture: "s390x".into(), ..wanted.clone() };
            (name == "foreign").then_some(other)
        },
    };
    let mut found = wanted(&file.warnings, &checks);
    found.extend(lint(&file, &checks, &facts));
    skip_by_instruction(&file, &mut found);
    found.sort_by_key(|warning| warning.place.line);
    let told: Vec<_> = found.iter().map(|w| (w.place.line, w.rule.unwrap_or("-"))).collect();
    assert_eq!(told, expect, "{text}: {found:?}");
}

#[test]
fn each_check_finds_its_own() {
    for (text, expect) in [
        ("FROM known AS Tools", (1, "StageNameCasing")),
        ("FROM known as tools", (1, "FromAsCasing")),
        ("FROM known\nRUN a \\\n\n  b", (2, "NoEmptyContinuation")),
        ("FROM known\nRUN a\nrun b", (3, "ConsistentInstructionCasing")),
        ("FROM known\nRUN a\nRun b", (3, "ConsistentInstructionCasing")),
        ("from known\nrun a\nRUN b", (3, "ConsistentInstructionCasing")),
        ("FROM known AS a\nFROM known AS a", (2, "DuplicateStageName")),
        ("FROM known AS context", (1, "ReservedStageName")),
        ("FROM known\nCMD run it", (2, "JSONArgsRecommended")),
        ("FROM known\nENTRYPOINT run it", (2, "JSONArgsRecommended")),
        ("FROM known\nMAINTAINER me", (2, "MaintainerDeprecated")),
        ("ARG VERSION=1\nFROM known:${VERSOIN}", (2, "UndefinedArgInFrom")),
        ("FROM --platform=$BUILDPLATFROM known", (1, "UndefinedArgInFrom")),
        ("FROM known\nWORKDIR app", (2, "WorkdirRelativePath")),
        ("FROM known\nCOPY $form /", (2, "UndefinedVar")),
        ("FROM known\nENV PATH=$PAHT:/x", (2, "UndefinedVar")),
        ("FROM known\nCMD [\"a\"]\nCMD [\"b\"]", (2, "MultipleInstructionsDisallowed")),
        ("FROM known\nHEALTHCHECK CMD a\nHEALTHCHECK NONE", (2, "MultipleInstructionsDisallowed")),
        ("FROM known\nENV a b c", (2, "LegacyKeyValueFormat")),
        ("FROM known\nLABEL a b", (2, "LegacyKeyValueFormat")),
        ("FROM --platform=$TARGETPLATFORM known", (1, "RedundantTargetPlatform")),
        ("FROM known\nARG API_KEY", (2, "SecretsUsedInArgOrEnv")),
        ("FROM known\nENV GITHUB_TOKEN=x", (2, "SecretsUsedInArgOrEnv")),
        ("ARG TAG\nFROM known:${TAG}", (2, "InvalidDefaultArgInFrom")),
        ("FROM --platform=linux/amd64 known", (1, "FromPlatformFlagConstDisallowed")),
        ("FROM --platform=arm64 known AS v", (1, "FromPlatformFlagConstDisallowed")),
        ("FROM foreign", (1, "InvalidBaseImagePlatform")),
        ("FROM --platform=$BUILDPLATFORM foreign", (1, "InvalidBaseImagePlatform")),
        ("# check=experimental=all\n\n# of what\nFROM known AS a", (4, "InvalidDefinitionDescription")),
        (
            "# check=experimental=InvalidDefinitionDescription\n\nFROM known\n# it\nARG A",
            (5, "InvalidDefinitionDescription"),
        ),
        (
            "FROM known\n# check=skip=JSONArgsRecommended so it is\nCMD a\nENTRYPOINT b",
            (4, "JSONArgsRecommended"),
        ),
        ("FROM known\n# check=skip=all\n\nCMD a", (4, "JSONArgsRecommended")),
        ("FROM known\nCOPY out/x /", (2, "CopyIgnoredFile")),
        ("FROM known\nADD out /", (2, "CopyIgnoredFile")),
        ("FROM known\nEXPOSE 80/TCP", (2, "ExposeProtoCasing")),
        ("FROM known\nEXPOSE 127.0.0.1:80:80", (2, "ExposeInvalidFormat")),
    ] {
        check(text, "out", &[expect]);
    }
}

#[test]
fn what_is_right_is_let_be() {
    for text in [
        "# syntax=docker/dockerfile:1\nFROM known AS a\nFROM a AS b",
        "from known as a\nrun x",
        "FROM known\nSHELL [\"/bin/bash\", \"-c\"]\nCMD run it",
        "ARG VERSION=1\nFROM known:${VERSION}",
        "FROM --platform=$BUILDPLATFORM known",
        "FROM --platform=linux/amd64 known AS build-amd64",
        "FROM known\nWORKDIR /app\nWORKDIR sub",
        "FROM known AS a\nWORKDIR /app\nARG X\nFROM a\nWORKDIR sub\nCOPY $X$HOME$PATH /",
        "FROM unknown\nCOPY $anything /",
        "FROM named\nCOPY $anything /",
        "FROM known\nRUN echo $shell_variable",
        "FROM known\nARG PUBLIC_KEY\nENV TOKEN_FILE=/x TOKENIZER=1 KEYBOARD=de",
        "FROM known AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]",
        "FROM known\nCOPY in .dockerignore /\nCOPY --from=known out /\nEXPOSE 80/udp $PATH",
        "# check=skip=all\nFROM known AS Tools\nMAINTAINER me",
        "# check=skip=JSONArgsRecommended,StageNameCasing;error=true\nFROM known AS A\nCMD x",
        "# of what\nFROM known AS a",
        "# check=experimental=all\n\n# a is it\nFROM known AS a\n# A B\nARG A\n# far\n\nARG B",
        "FROM known\n# check=skip=JSONArgsRecommended\n# why\nCMD a",
        "FROM --platform=linux/arm64 known AS arm64",
        "FROM known\n# check=what it says\nRUN true",
        "FROM known\nLABEL a=b \\\n  c=\"d e\"\nENV a=\"b c\"",
    ] {
        check(text, "out", &[]);
    }
    check("FROM known\nCOPY . /", "*", &[(2, "CopyIgnoredFile")]);
    check("FROM known\nCOPY out /", "*\n!out", &[]);
}

#[test]
fn checks_are_chosen_by_name() {
    assert!(Checks::parse("skip=A;error=maybe").is_err());
    assert!(Checks::parse("nothing").is_err());
    let checks = Checks::parse(" skip=JSONArgsRecomended ; error=1 ").unwrap();
    assert!(checks.error);
    assert_eq!(
        checks.unknown().as_deref(),
        Some("there is no check 'JSONArgsRecomended'; did you mean JSONArgsRecommended?")
    );
}
