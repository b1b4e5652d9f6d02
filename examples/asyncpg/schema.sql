create table seat (number int primary key, visitor text);
insert into seat select generate_series(1, 10);
