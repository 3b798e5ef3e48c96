//! Images: those there are, brought, removed.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use wharf_base::Digest;
use wharf_image::{Error, GcOptions, ImageConfig, Reference, Store};
use wharf_node::PullSecret;

use crate::{
    cri::Cri,
    grpc::{Code, Failure, Result},
    v1::{
        AuthConfig, Image, ImageStatusRequest, ImageStatusResponse, Int64Value, ListImagesRequest,
        ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest, RemoveImageResponse,
    },
};

/// Every image of the store, by its id.
fn all(store: &Store) -> Result<BTreeMap<Digest, Image>> {
    let mut images: BTreeMap<Digest, Image> = BTreeMap::new();
    for entry in store.references()? {
        // One that is only half here, or of another machine.
        let Ok((_, manifest)) = store.manifest(&entry.target) else { continue };
        let id = manifest.config.digest;
        let image = match images.get_mut(&id) {
            Some(image) => image,
            None => {
                let Ok(bytes) = store.document(&id) else { continue };
                let user = ImageConfig::parse(&bytes)?.config.user;
                let size = manifest.layers.iter().map(|layer| layer.size).sum::<u64>() + manifest.config.size;
                images.entry(id).or_insert_with(|| described(id, &user, size))
            }
        };
        let mut add = |names: fn(&mut Image) -> &mut Vec<String>, name: String| {
            let names = names(image);
            if !names.contains(&name) {
                names.push(name);
            }
        };
        if entry.reference.tag().is_some() {
            add(|image| &mut image.repo_tags, entry.reference.to_string());
        }
        let digest = format!("{}@{}", entry.reference.repository(), entry.target.digest);
        add(|image| &mut image.repo_digests, digest);
    }
    Ok(images)
}

fn described(id: Digest, user: &str, size: u64) -> Image {
    let user = user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() { Some(0) } else { user.parse::<i64>().ok() };
    Image {
        id: id.to_string(),
        size,
        uid: uid.map(|value| Int64Value { value }),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        ..Image::default()
    }
}

/// The image a text names; nothing when there is none.
fn find(store: &Store, text: &str) -> Result<Option<Image>> {
    if text.is_empty() {
        return Err(Failure::invalid("no image is named"));
    }
    match store.find(text) {
        Ok((_, target)) => {
            let id = store.manifest(&target)?.1.config.digest;
            Ok(all(store)?.remove(&id))
        }
        Err(Error::NoImage { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An image by repository and digest, or by its id when nothing names it.
pub(crate) fn reference_of(store: &Store, id: &Digest) -> Result<String> {
    let image = all(store)?.remove(id);
    Ok(image.and_then(|image| image.repo_digests.into_iter().next()).unwrap_or_else(|| id.to_string()))
}

/// Credentials as `docker login` would have stored them for the registry of an image.
fn docker_config(auth: &AuthConfig, name: &Reference) -> Option<Value> {
    let mut entry = serde_json::Map::new();
    if !auth.username.is_empty() || !auth.password.is_empty() {
        let pair = STANDARD.encode(format!("{}:{}", auth.username, auth.password));
        entry.insert("auth".to_owned(), json!(pair));
    } else if !auth.auth.is_empty() {
        entry.insert("auth".to_owned(), json!(auth.auth));
    }
    for (key, value) in [("identitytoken", &auth.identity_token), ("registrytoken", &auth.registry_token)] {
        if !value.is_empty() {
            entry.insert(key.to_owned(), json!(value));
        }
    }
    (!entry.is_empty()).then(|| json!({ "auths": { name.domain(): entry } }))
}

impl Cri {
    pub(crate) fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse> {
        let store = &self.config.images;
        let wanted =
            request.filter.and_then(|filter| filter.image).map(|image| image.image).unwrap_or_default();
        let images = match wanted.as_str() {
            "" => all(store)?.into_values().collect(),
            name => find(store, name)?.into_iter().collect(),
        };
        Ok(ListImagesResponse { images })
    }

    pub(crate) fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse> {
        let store = &self.config.images;
        let image = find(store, &request.image.unwrap_or_default().image)?;
        let mut info = BTreeMap::new();
        if let (true, Some(image)) = (request.verbose, &image) {
            let config = store.find(&image.id).and_then(|(_, target)| store.manifest(&target));
            let config = config.and_then(|(_, manifest)| store.document(&manifest.config.digest))?;
            let facts = json!({ "imageSpec": serde_json::from_slice::<Value>(&config).unwrap_or_default() });
            info.insert("info".to_owned(), facts.to_string());
        }
        Ok(ImageStatusResponse { image, info })
    }

    pub(crate) async fn pull_image(self: Arc<Self>, request: PullImageRequest) -> Result<PullImageResponse> {
        let text = request.image.unwrap_or_default().image;
        let name: Reference = text.parse()?;
        let config = request.auth.as_ref().and_then(|auth| docker_config(auth, &name));
        let secrets: Vec<PullSecret> = config
            .into_iter()
            .map(|config| PullSecret {
                name: "auth".to_owned(),
                docker_config: config.to_string().into_bytes(),
            })
            .collect();
        let pulled = self.config.puller.pull(&text, &secrets).await;
        pulled.map_err(|error| Failure::new(Code::Unknown, format_args!("cannot pull {text}: {error}")))?;
        let found = tokio::task::spawn_blocking(move || find(&self.config.images, &text));
        let image = found.await.map_err(Failure::internal)??;
        let image = image.ok_or_else(|| Failure::internal("the image was removed while it was pulled"))?;
        Ok(PullImageResponse { image_ref: image.id })
    }

    pub(crate) fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse> {
        let store = &self.config.images;
        let Some(image) = find(store, &request.image.unwrap_or_default().image)? else {
            return Ok(RemoveImageResponse {});
        };
        for entry in store.references()? {
            let is_it =
                store.manifest(&entry.target).is_ok_and(|(_, m)| m.config.digest.to_string() == image.id);
            if is_it {
                store.untag(&entry.reference)?;
            }
        }
        // Layers that containers use stay: they are leased.
        store.gc(&GcOptions::default())?;
        Ok(RemoveImageResponse {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_as_docker_keeps_them() {
        let name: Reference = "registry.example/a/b:c".parse().unwrap();
        let auth = AuthConfig { username: "u".to_owned(), password: "p".to_owned(), ..Default::default() };
        let expected = json!({ "auths": { "registry.example": { "auth": "dTpw" } } });
        assert_eq!(docker_config(&auth, &name), Some(expected));
        let token = AuthConfig { identity_token: "t".to_owned(), ..Default::default() };
        let expected = json!({ "auths": { "registry.example": { "identitytoken": "t" } } });
        assert_eq!(docker_config(&token, &name), Some(expected));
        assert_eq!(docker_config(&AuthConfig::default(), &name), None);
    }

    #[test]
    fn users_of_images() {
        let user = |text: &str| {
            let image = described(Digest::of("x"), text, 1);
            (image.uid.map(|uid| uid.value), image.username)
        };
        assert_eq!(user(""), (Some(0), String::new()));
        assert_eq!(user("1002:1003"), (Some(1002), String::new()));
        assert_eq!(user("app:staff"), (None, "app".to_owned()));
    }
}
