//! The customers of a seeded shop, made inside Postgres: half a million in seconds, the same ones for the same seed.
//!
//! Every figure is drawn by hashing the customer's number, the seed and the name of the figure, so nothing depends on
//! the order of work. It must never use a name, address or number of a real person: names are put together from
//! frequent parts, addresses end in `.example`.

use carillon_jobs::{SenderId, ShopId};
use sqlx::AssertSqlSafe;

use crate::{channel::Channel, db::PgPool};

/// Small enough that no statement is slow enough to be logged.
const CHUNK: u32 = 5_000;

/// The most frequent family names, about as frequent as they are.
const FAMILY_NAMES: &str = "陳陳陳陳陳陳陳陳陳陳陳林林林林林林林林黃黃黃黃黃黃張張張張張李李李李李王王王王吳吳吳吳劉劉劉蔡蔡蔡楊楊楊\
    許許許鄭鄭謝謝洪洪郭郭邱曾曾廖廖賴賴徐徐周周葉葉蘇蘇莊莊呂呂江江何何蕭羅高潘簡朱鍾彭游詹胡施沈余盧梁趙顏柯翁魏孫戴\
    范方宋鄧杜傅侯曹薛丁卓阮馬董温唐藍蔣石古紀姚連馮歐程湯";
const GIVEN_FIRST: &str =
    "志家俊建文明宗冠柏宇承彥哲嘉信育惠淑美雅怡佳婉雪麗玉秀欣心宜佩詩思靜曉庭品子芷語若采舒郁筱伊佑睿奕恩";
const GIVEN_SECOND: &str =
    "豪偉宏傑銘賢翔廷瑋霖安翰毅誠華玲君慧芬婷如雯萱蓉珊琪穎潔涵妤綺蓁瑜潔惠娟芳菁儀筠庭晴樺恩妍彤安";

/// Adds the customers and their addresses.
pub(super) async fn add(
    pool: &PgPool,
    shop: ShopId,
    customers: u32,
    seed: u32,
    senders: &[(Channel, SenderId)],
) -> Result<(), sqlx::Error> {
    let sender = |wanted| {
        senders
            .iter()
            .find(|(channel, _)| *channel == wanted)
            .map(|(_, id)| id.0)
    };
    let sql = sql();
    let mut first = 1;
    while first <= customers {
        let last = customers.min(first.saturating_add(CHUNK - 1));
        sqlx::query(AssertSqlSafe(sql.as_str()))
            .bind(shop.0)
            .bind(i64::from(first))
            .bind(i64::from(last))
            .bind(i64::from(seed))
            .bind(FAMILY_NAMES)
            .bind(GIVEN_FIRST)
            .bind(GIVEN_SECOND)
            .bind(sender(Channel::App))
            .bind(sender(Channel::Line))
            .bind(sender(Channel::Email))
            .bind(sender(Channel::Messenger))
            .bind(sender(Channel::Whatsapp))
            .bind(sender(Channel::Sms))
            .execute(pool)
            .await?;
        first = last.saturating_add(1);
    }
    // What was just written is about to be planned over.
    sqlx::raw_sql("analyze (skip_locked) customer; analyze (skip_locked) address")
        .execute(pool)
        .await?;
    Ok(())
}

/// How many addresses there are on each channel.
pub(super) async fn count(pool: &PgPool, shop: ShopId) -> Result<Vec<(Channel, i64)>, sqlx::Error> {
    sqlx::query_as(
        "select s.channel, count(*) from address a join sender s on s.id = a.sender_id where a.shop_id = $1
          group by 1 order by 1",
    )
    .bind(shop.0)
    .fetch_all(pool)
    .await
}

/// What is drawn for each customer, each independent of the others.
const DRAWS: [&str; 20] = [
    "family",
    "first",
    "second",
    "short",
    "out",
    "tag",
    "city",
    "app",
    "line",
    "mail",
    "app_state",
    "line_state",
    "mail_state",
    "twin",
    "page",
    "page_wrote",
    "whats",
    "whats_wrote",
    "phone",
    "phone_state",
];

fn sql() -> String {
    let draw = |name| format!("(hashtextextended(i || '{name}', $4) & 1048575)::int % 10000 as {name}");
    // Within 22 hours, so that a window is still open when the broadcast is sent; or two days to two months ago.
    let wrote = |name| {
        format!(
            "now() - case when p.{name} < 2400 then interval '33 seconds' * p.{name}
                         else interval '2 days' + interval '8 minutes' * p.{name} end"
        )
    };
    SQL.replace("{draws}", &DRAWS.map(draw).join(", "))
        .replace("{page_wrote}", &wrote("page_wrote"))
        .replace("{whats_wrote}", &wrote("whats_wrote"))
}

/// `d.x` is a draw from 0 to 9999. Shares: app 42 %, LINE 58 %, email 64 %, phone 71 %; Messenger 31 %, WhatsApp 12 %; opted out of
/// everything 2 %; one mailbox in sixty is that of the customer before. Of those on Messenger and WhatsApp 24 % wrote within the last
/// day, the others within the last two months. No national number begins with 0, so the WhatsApp numbers are nobody's; text messages
/// have no range kept for examples: theirs only ever reach a sandbox.
const SQL: &str = "
with person as (
    select i, d.*
      from generate_series($2::bigint, $3::bigint) as i,
           lateral (select {draws}) d),
made as (
    insert into customer (shop_id, external_id, first_name, last_name, tags, opted_out, created_at)
    select $1, 'C' || lpad(i::text, 8, '0'),
           substr($6, 1 + first % length($6), 1)
               || case when short < 600 then '' else substr($7, 1 + second % length($7), 1) end,
           substr($5, 1 + family % length($5), 1),
           array_remove(array[case when tag < 800 then 'vip' when tag < 2500 then 'new' end,
               (array['taipei', 'taipei', 'new-taipei', 'new-taipei', 'taoyuan', 'taichung', 'taichung', 'tainan',
                      'kaohsiung', 'hsinchu'])[1 + city % 10]], null),
           out < 200, now() - interval '1 minute' * (family * 37 % 1000000)
      from person order by i
    returning id, external_id)
insert into address (shop_id, sender_id, customer_id, address, state, state_reason, state_changed_at, created_at, last_inbound_at)
select $1, a.sender, m.id, a.address, a.state, a.reason, case when a.state <> 'active' then now() end, now(), a.wrote
  from made m
  join person p on p.i = substr(m.external_id, 2)::bigint,
       lateral (values
           ($8::uuid, p.app < 4200,
            left(md5($1::text || 'app' || p.i), 22) || ':APA91b' || md5($1::text || 'a' || p.i) || md5($1::text || 'b' || p.i),
            case when p.app_state < 500 then 'suppressed' else 'active' end,
            case when p.app_state < 500 then 'unregistered' end, null::timestamptz),
           ($9::uuid, p.line < 5800, 'U' || md5($1::text || 'line' || p.i),
            case when p.line_state < 400 then 'suppressed' else 'active' end,
            case when p.line_state < 400 then 'unfollowed' end, null),
           ($10::uuid, p.mail < 6400,
            'customer' || case when p.twin < 167 and p.i > 1 then p.i - 1 else p.i end || '.' || right($1::text, 6) || '@mail.example',
            case when p.mail_state < 150 then 'suppressed' when p.mail_state < 350 then 'opted_out' else 'active' end,
            case when p.mail_state < 150 then 'hard_bounce' when p.mail_state < 350 then 'unsubscribed' end, null),
           ($11::uuid, p.page < 3100,
            '7' || lpad((hashtextextended($1::text || 'page' || p.i, 0) & 999999999999999)::text, 15, '0'),
            'active', null, {page_wrote}),
           ($12::uuid, p.whats < 1200, '+8860' || lpad(p.i::text, 8, '0'), 'active', null, {whats_wrote}),
           ($13::uuid, p.phone < 7100,
            '+8869' || lpad(((hashtextextended($1::text, $4) & 255) * 390000 % 1000000 + p.i)::text, 8, '0'),
            case when p.phone_state < 200 then 'suppressed' when p.phone_state < 300 then 'opted_out' else 'active' end,
            case when p.phone_state < 200 then 'no_such_number' when p.phone_state < 300 then 'stop' end, null)
       ) as a (sender, has, address, state, reason, wrote)
 where a.has and a.sender is not null
 order by a.sender, m.id";
