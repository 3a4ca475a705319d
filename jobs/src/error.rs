//! Why a job text is refused: a closed list, each naming the field, none repeating what the text contained.

/// A job text that breaks the contract. Its message is for the person who wrote the producer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// The text is longer than [`crate::MAX_TEXT_BYTES`].
    #[error("the job text is {length} bytes long, the limit is {limit}")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Objects and arrays are nested deeper than [`crate::MAX_DEPTH`].
    #[error("the job text nests objects or arrays {depth} deep, the limit is {limit}")]
    TooDeep {
        /// How deep.
        depth: usize,
        /// The limit.
        limit: usize,
    },
    /// The text is not one JSON object.
    #[error("the job text is not JSON: {problem}")]
    NotJson {
        /// What the parser met, and where.
        problem: String,
    },
    /// A field is missing, unknown, given twice, or of the wrong shape.
    #[error("{field}: {problem}")]
    Field {
        /// The path of the field, such as `args.broadcast_id`; `.` is the object itself.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No kind of job has this name.
    #[error("`{name}` is not a kind of job; kinds are {known}")]
    UnknownKind {
        /// The name that was given, cut to a readable length.
        name: String,
        /// The names that exist.
        known: String,
    },
}

impl ContractError {
    pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            problem: problem.into(),
        }
    }
}
