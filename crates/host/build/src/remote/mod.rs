//! Sources that lie elsewhere: files over HTTP and git repositories.

mod git;
mod http;
mod unpack;

use std::{collections::BTreeMap, io::Read, sync::Arc};

pub(crate) use git::{Checkout, Git, GitUrl};
pub(crate) use http::{Download, Downloads, file_name, percent_decoded};
pub use unpack::is_archive;
pub(crate) use unpack::{archive, decoded};
use wharf_base::Hinted;

/// What is asked of a server.
#[derive(Debug, Clone, Default)]
pub struct FetchRequest {
    /// An http or https address.
    pub url: String,
    /// Further headers. `authorization` is for the address's own host: it must not follow a redirect to another.
    pub headers: BTreeMap<String, String>,
}

/// What a server answered, redirects followed.
pub struct FetchResponse {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The content.
    pub body: Box<dyn Read + Send>,
}

/// Asks a server for a file.
pub type Fetch = Arc<dyn Fn(&FetchRequest) -> Result<FetchResponse, Hinted> + Send + Sync>;

/// A source by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remote {
    /// A file.
    Http(String),
    /// A repository.
    Git(GitUrl),
}

impl Remote {
    /// The remote source a text means, if it is one.
    pub(crate) fn parse(text: &str) -> crate::Result<Option<Self>> {
        if let Some(url) = GitUrl::parse(text)? {
            return Ok(Some(Self::Git(url)));
        }
        Ok(is_http(text).then(|| Self::Http(text.to_owned())))
    }
}

pub(crate) fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// The address without a user and password, as messages may show it.
pub(crate) fn without_password(url: &str) -> String {
    split_user(url).0
}

/// The address without the user and password in it, and these.
pub(crate) fn split_user(url: &str) -> (String, Option<&str>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), None) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    (format!("{scheme}://{host}{path}"), user)
}
