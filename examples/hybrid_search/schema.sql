create table note (
    id bigint generated always as identity primary key,
    body text not null,
    words tsvector generated always as (to_tsvector('english', body)) stored,
    embedding vector(256) not null
);
create index on note using gin (words);
create index on note using hnsw (embedding vector_cosine_ops);
