//! All that is stored, as a backup takes it. Who may `get` the path is asked of RBAC; by default nobody but
//! administrators, since Secrets are in it.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use wharf_api::status::Status;
use wharf_http::Body;
use wharf_state::{
    Piece,
    backup::{BackupError, Head, Writer},
};

use crate::{ApiServer, respond, storage::storage_failure};

/// Where it is.
pub const PATH: &str = "/wharf/backup";

/// Streams a backup of everything as of now. One that fails on its way has no end, which its reader notices.
pub(crate) async fn answer(server: &ApiServer, verb: &str) -> Result<Response<Body>, Status> {
    if verb != "get" {
        return Err(Status::method_not_allowed());
    }
    let snapshot = server.storage.whole().await.map_err(|error| storage_failure(&error))?;
    let taken = u64::try_from(server.now().as_millis()).unwrap_or(0);
    let head = Head { revision: snapshot.revision, taken };
    let writer = Writer::new(Vec::new(), head).map_err(|error| Status::internal(&error))?;
    let chunks = stream::unfold(Some((writer, snapshot)), |state| async move {
        let (writer, mut snapshot) = state?;
        let piece = snapshot.next().await;
        Some(match chunk(writer, piece) {
            Ok((bytes, writer)) => (Ok(bytes), writer.map(|writer| (writer, snapshot))),
            Err(error) => {
                tracing::error!(%error, "a backup ended early");
                (Err(error), None)
            }
        })
    });
    let mut response = respond::response(200, "application/octet-stream", Bytes::new());
    *response.body_mut() = wharf_http::stream(chunks);
    Ok(response)
}

/// The bytes of the next keys, and the writer for those that follow.
fn chunk(mut writer: Writer<Vec<u8>>, piece: Piece) -> io::Result<(Bytes, Option<Writer<Vec<u8>>>)> {
    let failed = |error: BackupError| io::Error::other(error);
    match piece {
        Ok(None) => Ok((writer.finish().map_err(failed)?.into(), None)),
        Err(error) => Err(io::Error::other(error)),
        Ok(Some(keys)) => {
            keys.iter().try_for_each(|key| writer.key(key)).map_err(failed)?;
            Ok((std::mem::take(writer.get_mut()).into(), Some(writer)))
        }
    }
}
