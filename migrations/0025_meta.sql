-- why: what Meta's channels ask for beside a token: a window that is still open when a message leaves, not only when it is planned;
-- and no more pages than a shop may have, however many are connected at once.

-- Whether a WhatsApp number sends by an approved template, which needs no window. It stands beside the sealed credentials because
-- routing and claims cannot open them; whoever saves credentials keeps it true.
alter table sender add column sends_templates boolean not null default false;

-- Ten pages a shop: one primary (`sender_primary` sees to that) and nine more. Paused ones count, disconnected ones do not.
-- `page_limit` is what an error is told apart by, as with any constraint.
create function sender_page_limit() returns trigger language plpgsql as $$
begin
    -- Two that connect at once would not see each other.
    perform pg_advisory_xact_lock(hashtextextended('pages:' || new.shop_id::text, 0));
    if (select count(*) from sender s where s.shop_id = new.shop_id and s.channel = 'messenger' and s.state <> 'disconnected'
           and s.id <> new.id) >= 10 then
        raise exception 'a shop connects at most 10 Facebook pages, 1 primary and 9 more' using errcode = 'check_violation',
              constraint = 'page_limit', table = 'sender';
    end if;
    return new;
end $$;
create trigger sender_page_limit_new before insert on sender for each row
    when (new.channel = 'messenger' and new.shop_id is not null and new.state <> 'disconnected') execute function sender_page_limit();
create trigger sender_page_limit_again before update of shop_id, channel, state on sender for each row
    when (new.channel = 'messenger' and new.shop_id is not null and new.state <> 'disconnected'
          and (old.channel <> 'messenger' or old.state = 'disconnected' or old.shop_id is distinct from new.shop_id))
    execute function sender_page_limit();
