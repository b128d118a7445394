//! Tests of whole filters and orders.
