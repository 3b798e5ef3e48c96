//! Words every room shares: errors with hints, digests, ids, quantities, time.
//!
//! This room knows nothing of Kubernetes objects, files, sockets or async run times.

mod digest;
mod hint;
mod id;
mod quantity;
mod suggest;
mod time;
mod users;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use hint::{HintExt, Hinted, render_error};
pub use id::{ContainerId, IdError, random_bytes, random_hex, random_suffix};
pub use quantity::{Quantity, QuantityError};
pub use suggest::{closest, some_of};
pub use time::{Clock, FixedClock, SystemClock, Timestamp, TimestampError};
pub use users::{is_of_machine, last_of, root_of, unknown};
