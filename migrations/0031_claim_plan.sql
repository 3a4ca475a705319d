-- why: in a database of some ten thousand customers the planner preferred to keep a slice's customers in memory and to look through
-- all of them for each of its members: claiming a thousand took 33 ms, seven times as long as by the index. It cannot know that they
-- are as many as the members. Each is read by its key, however few customers there are; and so are the results of a slice.
alter function claim_slice(uuid, channel, int, int, double precision, double precision, boolean) set enable_material = off;
alter function settle_window(uuid, channel, int, int, bigint[], delivery_state[], text[], text[], text[], bigint[], int, bigint[], bigint[],
    double precision, double precision) set enable_material = off;
alter function record_results(uuid, channel, int, bigint[], delivery_state[], text[], text[], text[]) set enable_material = off;
