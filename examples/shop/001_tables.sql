create table product (
    id int generated always as identity primary key,
    name text not null,
    embedding vector(3)
);
create index on product using hnsw (embedding vector_l2_ops);
