//! Which stages are needed, what each stands on, and the steps people see.

use std::collections::{BTreeMap, BTreeSet};

use wharf_base::closest;
use wharf_image::Platform;

use super::{contexts::named, platform::parse_platform, request::NamedContext, state::State};
use crate::{
    dockerfile::{Dockerfile, Expander, Instruction, Kind, parse_mount},
    error::{Error, Place, Result, plain},
    progress::StepId,
};

/// What a build does.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The stages needed, in the order of the file.
    pub(crate) stages: Vec<PlannedStage>,
    /// The number of the stage that becomes the image.
    pub(crate) target: usize,
    /// Values of arguments before the first `FROM`, and of those every build has.
    pub(crate) globals: BTreeMap<String, String>,
    /// Build arguments somebody asked for.
    pub(crate) used_args: BTreeSet<String>,
    pub(crate) steps: usize,
}

/// One stage to build.
#[derive(Debug)]
pub(crate) struct PlannedStage {
    pub(crate) number: usize,
    pub(crate) base: Base,
    /// What it is built for.
    pub(crate) platform: Platform,
    pub(crate) place: Place,
    /// Its instructions, those its base left for it first.
    pub(crate) instructions: Vec<Instruction>,
    /// The step of `FROM` and of each instruction that has one.
    pub(crate) from_step: Step,
    pub(crate) steps: Vec<Option<Step>>,
}

/// What a stage stands on.
#[derive(Debug)]
pub(crate) enum Base {
    Stage(usize),
    Start(Box<State>),
    /// A context of this name.
    Context(String),
}

/// A step as people see it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) id: StepId,
    pub(crate) name: String,
}

/// What planning needs to know besides the Dockerfile.
pub(crate) struct Wishes<'a> {
    pub(crate) target: Option<&'a str>,
    pub(crate) args: &'a BTreeMap<String, String>,
    pub(crate) contexts: &'a BTreeMap<String, NamedContext>,
    /// What the image is for.
    pub(crate) platform: &'a Platform,
    /// Whether the steps say for which platform they are.
    pub(crate) several: bool,
    /// How many steps other plans of the build have.
    pub(crate) before: usize,
    /// Finds an image for a platform and gives the state of a stage on it.
    pub(crate) image: &'a dyn Fn(&str, &Platform) -> Result<State>,
}

pub(crate) fn plan(file: &Dockerfile, wishes: &Wishes<'_>) -> Result<Plan> {
    let mut planner =
        Planner { file, wishes, globals: platform_args(wishes.platform), used_args: BTreeSet::new() };
    planner.read_globals()?;
    let target = planner.target()?;
    let drafts = planner.drafts(target)?;
    let mut plan = Plan {
        stages: Vec::new(),
        target,
        globals: planner.globals,
        used_args: planner.used_args,
        steps: wishes.before,
    };
    let prefix = if wishes.several { format!("{} ", wishes.platform) } else { String::new() };
    for (number, draft) in drafts {
        plan.number_steps(file, number, draft, &prefix);
    }
    Ok(plan)
}

/// A stage before its steps are numbered.
struct Draft {
    base: Base,
    platform: Platform,
    shown: String,
    instructions: Vec<Instruction>,
}

struct Planner<'a> {
    file: &'a Dockerfile,
    wishes: &'a Wishes<'a>,
    globals: BTreeMap<String, String>,
    used_args: BTreeSet<String>,
}

/// `BUILDPLATFORM` and its parts are this machine's, `TARGETPLATFORM` and its parts the image's.
pub(crate) fn platform_args(target: &Platform) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (side, platform) in [("BUILD", &Platform::host()), ("TARGET", target)] {
        args.insert(format!("{side}PLATFORM"), platform.to_string());
        args.insert(format!("{side}OS"), platform.os.clone());
        args.insert(format!("{side}ARCH"), platform.architecture.clone());
        args.insert(format!("{side}VARIANT"), platform.variant.clone().unwrap_or_default());
    }
    args
}

impl Planner<'_> {
    fn read_globals(&mut self) -> Result<()> {
        let expander = Expander::new(self.file.escape);
        for instruction in &self.file.global_args {
            let Kind::Arg(args) = &instruction.kind else { continue };
            for (name, default) in args {
                let value = match (self.wishes.args.get(name), default) {
                    (Some(given), _) => Some(given.clone()),
                    (None, Some(default)) => {
                        let value = expander.text(default, &|name| self.globals.get(name).cloned());
                        Some(value.map_err(|e| e.at(instruction.place))?)
                    }
                    (None, None) => None,
                };
                self.used_args.insert(name.clone());
                self.globals.extend(value.map(|value| (name.clone(), value)));
            }
        }
        let target = self.wishes.target.unwrap_or("default").to_owned();
        self.globals.insert("TARGETSTAGE".into(), target);
        Ok(())
    }

    fn target(&self) -> Result<usize> {
        let Some(wanted) = self.wishes.target else { return Ok(self.file.stages.len() - 1) };
        self.file.stage(wanted, self.file.stages.len()).ok_or_else(|| {
            let stages = self.file.stages.len();
            let numbers = format!("no stage has a name; write its number, from 0 to {}", stages - 1);
            Error::invalid(format!("there is no stage '{wanted}' to build"))
                .hint(self.stages_before(stages, wanted).unwrap_or(numbers))
        })
    }

    /// What names there are among the first `before` stages, for who wrote `wanted`.
    fn stages_before(&self, before: usize, wanted: &str) -> Option<String> {
        let stages = self.file.stages.iter().take(before);
        let names: Vec<&str> = stages.filter_map(|stage| stage.from.name.as_deref()).collect();
        match (closest(wanted, names.iter().copied()), names.as_slice()) {
            (Some(near), _) => Some(format!("did you mean '{near}'?")),
            (None, []) => None,
            (None, names) => Some(format!("the stages are: {}", names.join(", "))),
        }
    }

    /// The stages the target needs, drawn up in the order of the file.
    fn drafts(&mut self, target: usize) -> Result<BTreeMap<usize, Draft>> {
        let mut drafts = BTreeMap::new();
        let mut wanted = vec![target];
        while let Some(number) = wanted.pop() {
            if drafts.contains_key(&number) {
                continue;
            }
            let draft = self.draft(number)?;
            if let Base::Stage(base) = draft.base {
                wanted.push(base);
            }
            for instruction in &draft.instructions {
                let sources = self.sources_of(instruction, number, &draft.platform);
                wanted.extend(sources.map_err(|error| error.at(instruction.place))?);
            }
            drafts.insert(number, draft);
        }
        Ok(drafts)
    }

    fn draft(&self, number: usize) -> Result<Draft> {
        let Some(stage) = self.file.stages.get(number) else {
            return Err(Error::invalid(format!("there is no stage {number}")));
        };
        let at = |error: Error| error.at(stage.place);
        let expander = Expander::new(self.file.escape);
        let expand = |text: &str| expander.text(text, &|name| self.globals.get(name).cloned()).map_err(at);
        let name = expand(&stage.from.base)?;
        if name.is_empty() {
            let hint =
                format!("give the argument in '{}' a value, with a default or --build-arg", stage.from.base);
            return Err(at(Error::invalid("FROM has no image once its arguments are put in").hint(hint)));
        }
        let platform = match &stage.from.platform {
            Some(platform) => parse_platform(&expand(platform)?).map_err(at)?,
            None => self.wishes.platform.clone(),
        };
        let replaced = stage.from.name.as_deref().and_then(|name| named(self.wishes.contexts, name));
        if let Some(context) = replaced {
            let base = Base::Context(context.to_owned());
            let shown = format!("context {context}");
            return Ok(Draft { base, platform, shown, instructions: Vec::new() });
        }
        let mut triggers = Vec::new();
        let (base, shown) = if let Some(context) = named(self.wishes.contexts, &name) {
            (Base::Context(context.to_owned()), format!("context {context}"))
        } else if name == "scratch" {
            (Base::Start(Box::new(State::scratch(&platform))), name)
        } else if let Some(base) = self.file.stage(&name, number).filter(|_| name.parse::<usize>().is_err()) {
            triggers = self.triggers_of_stage(base);
            (Base::Stage(base), name)
        } else {
            let mut state = (self.wishes.image)(&name, &platform).map_err(|error| {
                // A stage of this file is nearer than an image of the store.
                let stages = self.file.stages.iter().take(number);
                let names = stages.filter_map(|stage| stage.from.name.as_deref());
                let near = closest(&name, names).map(|near| format!("did you mean the stage '{near}'?"));
                at(error.maybe_hint(near))
            })?;
            triggers.append(&mut state.config.on_build);
            (Base::Start(Box::new(state)), name)
        };
        let mut instructions = Dockerfile::parse_triggers(&triggers).map_err(at)?;
        instructions.iter_mut().for_each(|trigger| trigger.place = stage.place);
        instructions.extend(stage.instructions.iter().cloned());
        Ok(Draft { base, platform, shown, instructions })
    }

    fn triggers_of_stage(&self, number: usize) -> Vec<String> {
        let instructions = self.file.stages.get(number).map(|stage| stage.instructions.as_slice());
        let trigger = |instruction: &Instruction| match &instruction.kind {
            Kind::OnBuild(text) => Some(text.clone()),
            _ => None,
        };
        instructions.unwrap_or_default().iter().filter_map(trigger).collect()
    }

    /// Stages an instruction takes files from.
    fn sources_of(
        &self,
        instruction: &Instruction,
        number: usize,
        platform: &Platform,
    ) -> Result<Vec<usize>> {
        let mut names = Vec::new();
        match &instruction.kind {
            Kind::Copy(copy) => names.extend(copy.from.clone()),
            Kind::Run(run) => {
                for mount in &run.mounts {
                    names.extend(parse_mount(mount, None)?.from);
                }
            }
            _ => {}
        }
        let mut stages = Vec::new();
        for name in names {
            if named(self.wishes.contexts, &name).is_some() {
                continue;
            }
            if name.contains('$') {
                let hint = "name the image in a FROM … AS stage and take files from that";
                return Err(Error::invalid(format!("'{name}': from cannot hold a variable")).hint(hint));
            }
            if self.file.stages.get(number).is_some_and(|s| s.from.name.as_deref() == Some(name.as_str())) {
                let hint = "name a stage before it; what is in the stage already, RUN cp copies";
                return Err(
                    Error::invalid(format!("the stage '{name}' cannot take files from itself")).hint(hint)
                );
            }
            match self.file.stage(&name, number) {
                Some(stage) => stages.push(stage),
                None if name == "scratch" => {}
                None => self.check_image(&name, number, platform)?,
            }
        }
        Ok(stages)
    }

    /// Whether an image is there to take files from, asked before anything is run.
    fn check_image(&self, name: &str, number: usize, platform: &Platform) -> Result<()> {
        let Err(mut error) = (self.wishes.image)(name, platform) else { return Ok(()) };
        if let Some(later) = self.file.stage(name, self.file.stages.len()) {
            let line = self.file.stages.get(later).map_or(0, |stage| stage.place.line);
            return Err(Error::invalid(format!("the stage '{name}' begins only at line {line}"))
                .hint("move it before the stage that takes files from it"));
        }
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::invalid(format!("there is no stage {name} before this one"))
                .hint(self.numbers_before(number)));
        }
        let stages = self.file.stages.iter().take(number);
        let names: Vec<&str> = stages.filter_map(|stage| stage.from.name.as_deref()).collect();
        let near_image = error.hint.take().filter(|hint| hint.starts_with("did you mean"));
        let hint = match closest(name, names.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => near_image.unwrap_or_else(|| {
                let there = match names.as_slice() {
                    [] => "no stage before this one has a name".to_owned(),
                    names => format!("the stages before this one are: {}", names.join(", ")),
                };
                format!("name a stage before it by 'FROM … AS {name}', or pull the image; {there}")
            }),
        };
        error.what = format!("'{name}' is no stage before this one, and as an image: {}", error.what);
        Err(error.hint(hint))
    }

    /// Which stages there are among the first `before`, by number.
    fn numbers_before(&self, before: usize) -> String {
        let stages = self.file.stages.iter().take(before).enumerate();
        let all: Vec<String> = stages
            .map(|(number, stage)| match &stage.from.name {
                Some(name) => format!("{number} ('{name}')"),
                None => format!("{number} (FROM {})", stage.from.base),
            })
            .collect();
        match all.as_slice() {
            [] => "this is the first stage: begin one before it with FROM".into(),
            all => format!("stages count from 0; before this one there are: {}", all.join(", ")),
        }
    }
}

/// Whether an instruction is a step: it can change files.
fn is_step(kind: &Kind) -> bool {
    matches!(kind, Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_))
}

impl Plan {
    fn number_steps(&mut self, file: &Dockerfile, number: usize, draft: Draft, of_platform: &str) {
        let total = 1 + draft.instructions.iter().filter(|i| is_step(&i.kind)).count();
        let stage = file.stages.get(number);
        let name =
            stage.and_then(|stage| stage.from.name.clone()).unwrap_or_else(|| format!("stage-{number}"));
        let prefix = match file.stages.len() {
            0 | 1 => of_platform.to_owned(),
            _ => format!("{of_platform}{name} "),
        };
        let mut nth = 0;
        let mut step = |text: &str| {
            self.steps += 1;
            nth += 1;
            Step { id: self.steps, name: plain(&format!("[{prefix}{nth}/{total}] {text}")).into_owned() }
        };
        let from_step = step(&format!("FROM {}", draft.shown));
        let steps =
            draft.instructions.iter().map(|i| is_step(&i.kind).then(|| step(&one_line(&i.text)))).collect();
        self.stages.push(PlannedStage {
            number,
            base: draft.base,
            platform: draft.platform,
            place: stage.map(|stage| stage.place).unwrap_or_default(),
            instructions: draft.instructions,
            from_step,
            steps,
        });
    }
}

/// The instruction on one line, as lists show it.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
