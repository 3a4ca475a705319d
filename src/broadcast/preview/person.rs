//! For whom a broadcast is previewed: three customers of its own audience.
//!
//! Why these: one as most are; the one whose name takes the most room, who shows what no longer fits; one of whom nothing is known,
//! who shows the fallbacks. Where the audience has none of a kind, one is made up, and says so.
//!
//! It must never read an address, and never more than a bounded part of an audience.

use carillon_jobs::CustomerId;
use serde::Serialize;
use sqlx::QueryBuilder;

use super::Route;
use crate::{
    channel::{Content, Field, VALUE_BYTES, VALUE_GRAPHEMES},
    db::PgConnection,
};

/// Customers of an audience that are looked at, lowest ids first.
const LOOKED_AT: i64 = 100_000;
/// What `str::trim` takes away, as far as it occurs in names.
const BLANKS: &str = " \t\r\n\u{a0}\u{3000}";

/// Why a customer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// The first with a name.
    Sample,
    /// The longest name that is printed; of names too long to be printed only where there is no other.
    LongestName,
    /// Without any name the message uses.
    EmptyName,
}

impl Who {
    /// In the order of a preview.
    pub const ALL: [Self; 3] = [Self::Sample, Self::LongestName, Self::EmptyName];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::LongestName => "longest_name",
            Self::EmptyName => "empty_name",
        }
    }
}

/// One customer, or somebody who could be one. A name is personal: never for logs.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Person {
    /// Why this one.
    pub who: Who,
    /// The customer; none: made up.
    pub customer: Option<CustomerId>,
    /// Whether the audience has nobody of the kind.
    pub made_up: bool,
    /// As the customer gave it.
    pub first_name: String,
    /// As the customer gave it.
    pub last_name: String,
}

impl Person {
    fn made_up(who: Who) -> Self {
        let (first_name, last_name) = match who {
            Who::Sample => ("小美".to_owned(), "陳".to_owned()),
            // As long as a name may be to be printed.
            Who::LongestName => (
                "歐陽娜娜".repeat(VALUE_GRAPHEMES / 4),
                "司徒".repeat(VALUE_GRAPHEMES / 2),
            ),
            Who::EmptyName => (String::new(), String::new()),
        };
        Self {
            who,
            customer: None,
            made_up: true,
            first_name,
            last_name,
        }
    }
}

/// The three, by one statement.
pub(in crate::broadcast) async fn pick(
    conn: &mut PgConnection,
    route: &Route,
    content: &Content,
) -> Result<Vec<Person>, sqlx::Error> {
    let mut query = QueryBuilder::new("");
    push_named(&mut query, route, content);
    query.push(
        " (select 'sample', id, first_name, last_name from named where given <> '' or family <> ''
            order by printed = 0, id limit 1)
          union all (select 'longest_name', id, first_name, last_name from named where given <> '' or family <> ''
            order by printed desc, char_length(given) + char_length(family) desc, id limit 1)
          union all (select 'empty_name', id, first_name, last_name from named where given = '' and family = ''
            order by id limit 1)",
    );
    let rows: Vec<(String, i64, String, String)> = query.build_query_as().persistent(false).fetch_all(conn).await?;
    let found = |who: Who| {
        let (_, id, first_name, last_name) = rows.iter().find(|(kind, ..)| kind == who.as_str())?;
        Some(Person {
            who,
            customer: Some(CustomerId(*id)),
            made_up: false,
            first_name: first_name.clone(),
            last_name: last_name.clone(),
        })
    };
    Ok(Who::ALL
        .map(|who| found(who).unwrap_or_else(|| Person::made_up(who)))
        .into())
}

/// Only the longest name; none: nobody of the audience has one that is printed.
pub(in crate::broadcast) async fn longest(
    conn: &mut PgConnection,
    route: &Route,
    content: &Content,
) -> Result<Option<(String, String)>, sqlx::Error> {
    let mut query = QueryBuilder::new("");
    push_named(&mut query, route, content);
    query.push(" select first_name, last_name from named where printed > 0 order by printed desc, id limit 1");
    query.build_query_as().persistent(false).fetch_optional(conn).await
}

/// Adds `with named (id, first_name, last_name, given, family, printed)`: `given` and `family` are empty where the message does not
/// use them, `printed` is how many characters of them it would show.
fn push_named(query: &mut QueryBuilder<sqlx::Postgres>, route: &Route, content: &Content) {
    let used = (content.uses(Field::FirstName), content.uses(Field::LastName));
    // A message without names looks the same to everybody; then any name will do.
    let (first, last) = if used == (false, false) { (true, true) } else { used };
    query.push("with named as materialized (select n.*");
    for (sign, name) in [(", ", "given"), (" + ", "family")] {
        query.push(format_args!(
            "{sign}case when char_length({name}) <= {VALUE_GRAPHEMES} and octet_length({name}) <= {VALUE_BYTES}
                        then char_length({name}) else 0 end"
        ));
    }
    query.push(" as printed from (select c.id, c.first_name, c.last_name");
    for (column, name, used) in [("first_name", "given", first), ("last_name", "family", last)] {
        query
            .push(format_args!(", case when {used} then btrim(c.{column}, "))
            .push_bind(BLANKS);
        query.push(format_args!(") else '' end as {name}"));
    }
    query.push(" from customer c where ");
    route.push_members(query);
    query.push(" order by c.id limit ").push_bind(LOOKED_AT).push(") n)");
}
