//! Series of samples: append, keep, select.
