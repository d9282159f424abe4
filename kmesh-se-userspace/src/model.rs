//! What a ServiceEntry means: pure types, parsing of text and validation.
//!
//! In: YAML or JSON text and objects. Out: validated [`Entry`] values in a [`Snapshot`], or every reason
//! why not. Never: I/O, a clock, or an import of a sibling room.

mod cluster;
mod crds;
mod entry;
mod http_route;
mod name;
mod object;
mod parse;
mod place;
mod proxies;
mod reason;
mod request_route;
mod resolved;
mod snapshot;
mod validate;
mod waypoint;

pub use cluster::*;
pub use crds::*;
pub use entry::*;
pub use http_route::*;
pub use name::*;
pub use object::*;
pub use parse::*;
pub use place::*;
pub use proxies::*;
pub use reason::*;
pub use request_route::*;
pub use resolved::*;
pub use snapshot::*;
pub use validate::*;
pub use waypoint::*;
