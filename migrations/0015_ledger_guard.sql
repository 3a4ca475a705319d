-- why: what the ledger promises must hold for hand-written SQL, too. And where a person moves tokens, it must be known who,
-- why, and that a second person agreed.

-- What people did by hand: appended, never changed. Everything an operator does to money is here, in the transaction that did it.
create table operator_action (
    id      bigint generated always as identity primary key,
    at      timestamptz not null default now(),
    -- The person's name, as in `--by`.
    actor   text not null constraint operator_action_names_its_actor check (btrim(actor) <> '' and length(actor) <= 60),
    -- What was done, such as `adjust.request` or `top_up.mark_charged`.
    action  text not null constraint operator_action_is_a_word check (action ~ '^[a-z_]+(\.[a-z_]+)*$' and length(action) <= 60),
    -- What it was done to, such as `adjustment 12`: ids only, never a person's data.
    subject text not null constraint operator_action_names_its_subject check (btrim(subject) <> '' and length(subject) <= 200),
    reason  text not null constraint operator_action_has_a_reason check (btrim(reason) <> '' and length(reason) <= 500)
);
create index operator_action_of_subject on operator_action (subject, id);

create function operator_action_is_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'what an operator did is never changed or deleted' using errcode = 'restrict_violation';
end $$;
create trigger operator_action_append_only before update or delete on operator_action
    for each row execute function operator_action_is_append_only();
create trigger operator_action_no_truncate before truncate on operator_action
    for each statement execute function operator_action_is_append_only();

-- Called in the transaction that does what it tells of, so neither is there without the other. Returns the row's id.
create function log_operator_action(p_actor text, p_action text, p_subject text, p_reason text) returns bigint
language sql as $$
    insert into operator_action (actor, action, subject, reason)
    values (btrim(p_actor), p_action, p_subject, btrim(p_reason)) returning id
$$;
