//! What is measured: one cell is an operation, a number of clients, a pipeline depth and a value size.

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    /// Write.
    Set,
    /// Linearizable read where the system has one.
    Get,
}

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    /// What.
    pub(crate) operation: Operation,
    /// Connections.
    pub(crate) clients: usize,
    /// Requests in flight per connection.
    pub(crate) pipeline: usize,
    /// Bytes of a value.
    pub(crate) value_bytes: usize,
}

impl Cell {
    /// Whether one of the choices names this cell: operation, clients, pipeline, bytes of a value, as far as they are
    /// given (`GET,50,1 SET`).
    pub(crate) fn is_among(&self, choices: &str) -> bool {
        let own = self.to_string().replace(" | ", ",");
        choices.split_whitespace().any(|choice| {
            own.strip_prefix(choice).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
        })
    }
}

/// Bytes of every key.
pub(crate) const KEY_BYTES: usize = 16;

/// All cells; those of one operation and value size follow one another, so that each load before them serves many.
///
/// Every number of clients with values of 64 B; of the other sizes one row shows what the size does, the curve of
/// `values` shows more, and `make bench` stays short.
pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (value_bytes, all_clients) in [(64, [1, 50, 512].as_slice()), (16, &[50]), (1024, &[50])] {
        for operation in [Operation::Set, Operation::Get] {
            for pipeline in [1, 16] {
                for &clients in all_clients {
                    cells.push(Cell { operation, clients, pipeline, value_bytes });
                }
            }
        }
    }
    cells
}

impl Operation {
    /// As a client types it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Set => "SET",
            Operation::Get => "GET",
        }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} | {} | {} | {}", self.operation.name(), self.clients, self.pipeline, self.value_bytes)
    }
}

/// Key of a number, always [`KEY_BYTES`] long.
pub(crate) fn key(number: usize) -> String {
    format!("key:{number:012}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_chosen_by_their_first_fields() {
        let chosen = |choices: &str| all().into_iter().filter(|cell| cell.is_among(choices)).count();
        assert_eq!(chosen("GET,50,1,16"), 1);
        assert_eq!(chosen("GET,50,1"), 3, "three sizes of values");
        assert_eq!(chosen("SET,512"), 2, "with and without a pipeline");
        assert_eq!(chosen("GET,5"), 0, "fields are whole");
        assert_eq!(chosen("GET SET"), all().len());
    }
}
