//! Spans by trace: append, keep, find.
