//! What a frontend may rely on: drafts, starts and resumes in SQL, bells that mean nothing, and an older release that
//! comes back.

use std::{
    collections::{HashMap, HashSet},
    process::Output,
};

use carillon::db::PgPool;
use carillon::{app::ProcessKind, reconcile::ring};
use carillon_jobs::{BroadcastId, SenderId};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::Command;
use uuid::Uuid;

use crate::{
    fixture_db::database,
    scene::{APP, LINE, one, open, run, shop, state},
    wait::until,
    world::World,
};

const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));

/// A call of `draft_broadcast` to everybody.
fn draft(shop: Uuid, mode: &str, channels: &str) -> String {
    format!(
        "select draft_broadcast('{shop}', 'Sale', '{mode}', '{{{channels}}}',
            '{{\"text\": \"Hello {{first_name}}\", \"subject\": \"Sale\", \"fallbacks\": {{\"first_name\": \"you\"}}}}',
            '{{\"all\": true}}')"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_made_in_one_call_is_planned_and_sent_in_either_mode() {
    let world = World::new(&[]).await;
    // Everybody has mail, every second customer the app, every third LINE.
    world
        .customers(
            30,
            "s.channel = 'email' or s.channel = 'app' and n.i % 2 = 0 or s.channel = 'line' and n.i % 3 = 0",
        )
        .await;
    let working = world.work();
    // The first channel that reaches a customer; both channels.
    for (mode, channels, expected) in [
        (
            "priority_single",
            "app,line,email",
            vec![("app", 15), ("line", 5), ("email", 10)],
        ),
        ("app_plus_one", "line,app", vec![("line", 10), ("app", 15)]),
    ] {
        let id = BroadcastId(world.one(&draft(world.shop, mode, channels)).await);
        assert_eq!(world.state(id).await, "draft");
        world.send(id).await;
        world.ended(id, 60).await;
        let ended: String = world
            .one(&format!(
                "select concat_ws(' ', state, state_reason) from broadcast where id = '{id}'"
            ))
            .await;
        assert_eq!(ended, "completed", "{mode}");
        let accepted: Vec<String> = world
            .one(&format!(
                "select array_agg(channel || ' ' || (select count(*) from delivery_with_state d where d.broadcast_id = '{id}'
                        and d.channel = c.channel and d.state = 'accepted') order by position)
                   from broadcast_channel c where broadcast_id = '{id}'"
            ))
            .await;
        let expected: Vec<_> = expected.iter().map(|(channel, n)| format!("{channel} {n}")).collect();
        assert_eq!(accepted, expected, "{mode}, in the order asked for");
    }
    working.stop().await;
    world.audit().await;
}

#[tokio::test]
async fn a_draft_is_sent_from_the_shops_own_sender_before_the_platforms() {
    let db = database().await;
    let tea = shop(&db.pool, 1, 100).await;
    run(
        &db.pool,
        "insert into sender (id, shop_id, channel, name, is_primary, credentials)
         select gen_random_uuid(), null, c::channel, 'platform', p, '' from unnest(array['line', 'email']) c, unnest(array[true, false]) p",
    )
    .await;
    let id: Uuid = one(&db.pool, &draft(tea.id, "priority_single", "email,line")).await;
    let senders: Vec<String> = one(
        &db.pool,
        &format!(
            "select array_agg(concat_ws(' ', c.channel, s.channel, coalesce(s.shop_id::text, s.name), s.is_primary, c.tokens)
                              order by position)
               from broadcast_channel c join sender s on s.id = sender_id where broadcast_id = '{id}'"
        ),
    )
    .await;
    assert_eq!(
        senders,
        ["email email platform t 0", &format!("line line {} t 0", tea.id)]
    );

    let (code, message) = refusal(&db.pool, &draft(tea.id, "priority_single", "line,sms")).await;
    let sentence = format!("shop {} has no primary sender on sms; connect one first", tea.id);
    assert_eq!((code.as_str(), message), ("P0002", sentence));
    assert_eq!(refusal(&db.pool, &draft(tea.id, "everywhere", "line")).await.0, "23514");
    assert_eq!(
        refusal(&db.pool, &draft(Uuid::now_v7(), "priority_single", "line"))
            .await
            .0,
        "23503"
    );
    assert_eq!(
        refusal(&db.pool, &draft(tea.id, "priority_single", "fax")).await.0,
        "22P02"
    );
    for (call, code) in [
        ("select send_broadcast(gen_random_uuid())", "P0002"),
        (
            "select put_address(gen_random_uuid(), (select min(id) from customer), 'x')",
            "23503",
        ),
        (
            "select close_address((select min(id) from address), 'gone', null)",
            "23514",
        ),
    ] {
        assert_eq!(refusal(&db.pool, call).await.0, code, "{call}");
    }
    // What was refused left nothing.
    let drafts: i64 = one(&db.pool, "select count(*) from broadcast").await;
    assert_eq!(drafts, 1);
}

/// The SQLSTATE and the sentence with which a statement is refused.
async fn refusal(pool: &PgPool, sql: &str) -> (String, String) {
    let error = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .expect_err(sql)
        .into_database_error()
        .unwrap();
    (error.code().unwrap().into_owned(), error.message().to_owned())
}

#[tokio::test]
async fn ids_of_drafts_are_version_7_distinct_and_of_this_moment() {
    let db = database().await;
    let millis = "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint";
    let before: i64 = one(&db.pool, millis).await;
    let ids: Vec<Uuid> = one(
        &db.pool,
        "select array_agg(new_broadcast_id()) from generate_series(1, 10000)",
    )
    .await;
    let after: i64 = one(&db.pool, millis).await;
    for id in &ids {
        assert_eq!(
            (id.get_version_num(), id.get_variant()),
            (7, uuid::Variant::RFC4122),
            "{id}"
        );
        let (secs, nanos) = id.get_timestamp().unwrap().to_unix();
        let at = i64::try_from(secs * 1000 + u64::from(nanos) / 1_000_000).unwrap();
        assert!(
            (before..=after).contains(&at),
            "{id} is of {at}, not of {before} to {after}"
        );
    }
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 10_000);
    // The bits that are neither time nor version differ in every place.
    let (mut zeros, mut ones) = (0, 0);
    for id in &ids {
        zeros |= !id.as_u128();
        ones |= id.as_u128();
    }
    let random = 0x0fff_3fff_ffff_ffff_ffff_u128;
    assert_eq!((zeros & random, ones & random), (random, random));
    // The database takes them: they find their partition.
    let kept: i64 = one(
        &db.pool,
        "select count(*) from (select new_broadcast_id() id from generate_series(1, 100)) x
          where broadcast_id_time(id) between now() - interval '1 minute' and now() + interval '1 minute'",
    )
    .await;
    assert_eq!(kept, 100);
}

#[tokio::test]
async fn a_paused_broadcast_goes_on_where_it_was_with_its_lanes_due() {
    let db = database().await;
    let tea = shop(&db.pool, 4, 1000).await;
    let resume = async |id: Uuid| one::<bool>(&db.pool, &format!("select resume_broadcast('{id}')")).await;
    let pause = async |id: Uuid| one::<bool>(&db.pool, &format!("select pause_broadcast('{id}')")).await;
    let late = async |id: Uuid| {
        let sql = format!("select count(*) from lane where broadcast_id = '{id}' and due_at > now()");
        one::<i64>(&db.pool, &sql).await
    };
    let rest = async |id: Uuid| {
        let sql = format!("update lane set due_at = now() + interval '1 hour' where broadcast_id = '{id}'");
        run(&db.pool, &sql).await;
    };

    let sending = tea.opened(&[LINE, APP], 2).await;
    let beside = tea.opened(&[APP], 2).await;
    rest(sending).await;
    rest(beside).await;
    // Only what is paused is resumed: lanes that rest go on resting.
    assert!(!resume(sending).await);
    assert_eq!(late(sending).await, 2);
    assert!(pause(sending).await);
    assert!(resume(sending).await);
    assert_eq!(
        (state(&db.pool, sending).await.as_str(), late(sending).await),
        ("sending", 0)
    );
    assert_eq!(late(beside).await, 1);
    assert!(!resume(sending).await);

    // Wherever it was held it goes on.
    let planning = tea.planned(&[LINE], 2).await;
    let queued: Uuid = one(&db.pool, &draft(tea.id, "priority_single", "line")).await;
    run(&db.pool, &format!("select send_broadcast('{queued}')")).await;
    let scheduled: Uuid = one(&db.pool, &draft(tea.id, "priority_single", "line")).await;
    run(
        &db.pool,
        &format!(
            "update broadcast set scheduled_at = now() + interval '1 day' where id = '{scheduled}';
             select send_broadcast('{scheduled}')"
        ),
    )
    .await;
    for (id, was) in [(planning, "planning"), (queued, "queued"), (scheduled, "scheduled")] {
        assert!(pause(id).await, "{was}");
        assert_eq!(state(&db.pool, id).await, "paused");
        assert!(resume(id).await, "{was}");
        assert_eq!(state(&db.pool, id).await, was);
    }
    assert_eq!(open(&db.pool, planning).await, "opened");
    let kept: Uuid = one(&db.pool, &draft(tea.id, "priority_single", "line")).await;
    assert!(!resume(kept).await && !resume(Uuid::now_v7()).await);
    assert_eq!(state(&db.pool, kept).await, "draft");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bell_for_a_broadcast_that_does_not_exist_becomes_a_dead_job() {
    let world = World::new(&[]).await;
    let queue = world.app(ProcessKind::Command).queue().unwrap();
    let (lane, whole) = (BroadcastId::new(), BroadcastId::new());
    ring(&queue, lane, Some(SenderId(Uuid::now_v7()))).await.unwrap();
    ring(&queue, whole, None).await.unwrap();
    let working = world.work();
    until("both jobs are dead", async || {
        world.one::<i64>("select count(*) from dead_job").await == 2
    })
    .await;
    working.stop().await;
    let dead: Vec<String> = world
        .one("select array_agg(concat_ws(' ', kind, reason, error) order by error) from dead_job")
        .await;
    let mut expected = [lane, whole].map(|id| format!("broadcast-send rejected there is no broadcast {id}"));
    expected.sort();
    assert_eq!(dead, expected);
}

#[tokio::test]
async fn an_older_release_migrates_a_database_that_is_ahead_and_changes_nothing() {
    let world = World::new(&[]).await;
    world
        .run(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'of a newer release', true, '\\x00', 1)",
        )
        .await;
    let recorded = "select md5(string_agg(m::text, '|' order by version)) from _sqlx_migrations m";
    let before: String = world.one(recorded).await;
    for (args, says) in [
        (["migrate"].as_slice(), "the schema was up to date\n"),
        (
            ["migrate", "--check"].as_slice(),
            "the database is migrated for a newer program (versions [9999])\n",
        ),
    ] {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_carillon"))
            .args(args)
            .envs(&world.env)
            .output()
            .await
            .unwrap();
        let words = String::from_utf8_lossy(&stderr);
        assert_eq!(
            (status.code(), String::from_utf8_lossy(&stdout).as_ref()),
            (Some(0), says),
            "{words}"
        );
    }
    assert_eq!(world.one::<String>(recorded).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_readme_sends() {
    let example = fenced("sh", "psql \"$DATABASE_URL\"");
    let script = between(example, "<<'SQL'\n", "\nSQL\n");
    let content = between(example, "-v content='", "' <<");
    let world = World::new(&[]).await;
    world.customers(3, "s.channel = 'line'").await;
    let mut connection = PgConnection::connect(&world.db.url).await.unwrap();
    let mut variables = HashMap::from([
        ("shop".to_owned(), world.shop.to_string()),
        ("content".to_owned(), content.to_owned()),
    ]);
    psql(&mut connection, script, &mut variables).await;
    assert_eq!(variables["state"], "queued");
    let id: BroadcastId = variables["id"].parse().unwrap();

    // The bell as the example pushes it, with this world's prefix and the example's own escapes.
    let bell = between(example, "rpush '{carillon}:ready:broadcast-send' \"", "\" &&\n").replace("\\\"", "\"");
    let bell = bell.replace("$ID", &id.to_string());
    let key = format!("{{{}}}:ready:broadcast-send", world.env["CARILLON__REDIS__KEY_PREFIX"]);
    let client = redis::Client::open(world.env["REDIS_URL"].as_str()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let _: i64 = redis::cmd("RPUSH")
        .arg(key)
        .arg(bell)
        .query_async(&mut redis)
        .await
        .unwrap();

    let working = world.work();
    world.ended(id, 60).await;
    working.stop().await;
    assert_eq!(
        (world.state(id).await.as_str(), world.count(id, "accepted").await),
        ("completed", 3)
    );

    // The other languages make the same call.
    let call = |block: &'static str| between(block, "select draft_broadcast(", "'{\"all\": true}')");
    let expected = call(example).replace(":'shop'", "?").replace(":'content'", "?");
    for (language, shop, content) in [
        ("js", "$1", "$2"),
        ("python", "%s", "%s"),
        ("ruby", "$1", "$2"),
        ("php", "$1", "$2"),
    ] {
        let block = fenced(language, "draft_broadcast");
        assert_eq!(
            call(block).replace(shop, "?").replace(content, "?"),
            expected,
            "{language}"
        );
        assert!(block.contains("select send_broadcast("), "{language}");
        assert!(block.contains("{carillon}:ready:broadcast-send"), "{language}");
    }
}

/// The README's block in this language that holds `part`.
fn fenced(language: &str, part: &str) -> &'static str {
    README
        .split(&format!("```{language}\n"))
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains(part))
        .unwrap_or_else(|| panic!("the README has no {language} block with {part}"))
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("no {start} in {text}"));
    rest.split_once(end)
        .unwrap_or_else(|| panic!("no {end} after {start} in {text}"))
        .0
}

/// Does what psql does with the little of its language that the example uses: statements line by line, `:'name'`, `\gset`
/// of a row of one column, `\echo`.
async fn psql(connection: &mut PgConnection, script: &str, variables: &mut HashMap<String, String>) {
    for line in script.lines().filter(|line| !line.starts_with("\\echo ")) {
        let mut sql = line.to_owned();
        for (name, value) in &*variables {
            sql = sql.replace(&format!(":'{name}'"), &format!("'{}'", value.replace('\'', "''")));
        }
        match sql.strip_suffix(" \\gset") {
            Some(query) => {
                let (_, name) = query.rsplit_once(" as ").unwrap();
                let value = format!("select {name}::text from ({query}) x");
                let value: String = one(&mut *connection, &value).await;
                variables.insert(name.to_owned(), value);
            }
            None => {
                sqlx::raw_sql(AssertSqlSafe(sql))
                    .execute(&mut *connection)
                    .await
                    .unwrap();
            }
        }
    }
}
