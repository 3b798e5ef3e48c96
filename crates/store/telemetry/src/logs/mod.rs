//! Log lines by stream: append, keep, query.
