insert into product (name, embedding) values ('tea', '[1,2,3]'), ('nail', '[9,0,1]'), ('rope', '[4,4,0]');
