//! Base images: found in the store for a platform, or brought from elsewhere.

use wharf_base::Hinted;
use wharf_image::{Descriptor, ImageConfig, Platform, Reference, Store};

use super::{
    capture::ImageSource,
    platform::{is_same, platform_of},
    request::{Builder, Pull},
    state::{State, parts_of},
};
use crate::{
    error::{Error, Result},
    progress::{Listener, Progress},
};

/// What the store has under a name.
enum Here {
    /// The image for the platform.
    Image(Descriptor),
    /// An image for this other platform.
    Other(Platform),
    /// An index whose image for the platform is not here.
    Part,
}

/// The start of a stage on the image `name`, for `platform`.
pub(crate) fn image_state(
    builder: &Builder,
    name: &str,
    platform: &Platform,
    pull_always: bool,
    listener: Listener<'_>,
) -> Result<State> {
    let target = find(builder, name, platform, pull_always, listener)?;
    let (layers, config) = parts_of(builder.images.resolve_for(&target, platform)?);
    let source = ImageSource { name: name.to_owned(), digest: target.digest, is_layout: false };
    Ok(State::of(layers, config, platform, source))
}

fn find(
    builder: &Builder,
    name: &str,
    platform: &Platform,
    pull_always: bool,
    listener: Listener<'_>,
) -> Result<Descriptor> {
    let images = &builder.images;
    let found = images.find(name).map(|(_, target)| here(images, target, platform));
    let why = match (found, &builder.pull) {
        (Ok(Ok(Here::Image(target))), pull) if !(pull_always && pull.is_some()) => return Ok(target),
        (Ok(Ok(Here::Image(_))), _) => None,
        (Ok(Ok(Here::Other(other))), _) => {
            Some((format!("the image '{name}' here is for {other}, not for {platform}"), None))
        }
        (Ok(Ok(Here::Part)), _) => {
            Some((format!("of the image '{name}', what is for {platform} is not here"), None))
        }
        (Ok(Err(error)), None) => return Err(error),
        (Ok(Err(error)), Some(_)) => Some((error.what, error.hint)),
        (Err(error @ wharf_image::Error::NoImage { .. }), Some(_)) => {
            // Most of the time the name is wrong, and the store knows what may be meant.
            Some((error.to_string(), error.hint()))
        }
        (Err(error), _) => return Err(error.into()),
    };
    let Some(pull) = &builder.pull else {
        let (what, _) = why.unwrap_or_default();
        return Err(Error::host(what).hint("bring one, or build it with --platform"));
    };
    pull_image(pull, name, platform, listener).map_err(|refused| match why {
        Some((what, hint)) => Error::host(format!("{what}, and it cannot be pulled: {refused}"))
            .hint(hint.unwrap_or_else(|| refused.hint().to_owned())),
        None => Error::host(format!("cannot pull '{name}': {refused}")).hint(refused.hint().to_owned()),
    })?;
    Ok(images.find(name)?.1)
}

/// What the image `name` is for, where it is here and is not for `wanted`.
pub(super) fn other_platform(images: &Store, name: &str, wanted: &Platform) -> Option<Platform> {
    let (_, target) = images.find(name).ok()?;
    match here(images, target, wanted) {
        Ok(Here::Other(other)) => Some(other),
        _ => None,
    }
}

/// What a name's target has for `platform`.
fn here(images: &Store, target: Descriptor, platform: &Platform) -> Result<Here> {
    let (_, manifest) = match images.manifest_for(&target, platform) {
        Ok(found) => found,
        Err(wharf_image::Error::NoBlob(_)) => return Ok(Here::Part),
        Err(error) => return Err(error.into()),
    };
    let Ok(document) = images.document(&manifest.config.digest) else { return Ok(Here::Part) };
    let other = platform_of(&ImageConfig::parse(&document)?, platform);
    Ok(match is_same(&other, platform) {
        true => Here::Image(target),
        false => Here::Other(other),
    })
}

pub(super) fn pull_image(
    pull: &Pull,
    name: &str,
    platform: &Platform,
    listener: Listener<'_>,
) -> Result<(), Hinted> {
    let host = Platform::host();
    let of = if is_same(platform, &host) { String::new() } else { format!(" for {platform}") };
    listener(Progress::Note { text: format!("pulling {name}{of}") });
    let reference: Reference =
        name.parse().map_err(|error: wharf_image::Error| Hinted::new(error, "correct the name"))?;
    pull(&reference, platform)
}
