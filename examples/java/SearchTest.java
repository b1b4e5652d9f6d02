import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.Map;

/** Plain JDBC, in the database that {@code leasedb exec} leased. */
class SearchTest {
    public static void main(String... arguments) throws SQLException {
        try (var connection = connect()) {
            connection.createStatement().execute("create table product (name text, embedding vector(3))");
            add(connection, "tea", "[1,2,3]");
            add(connection, "nail", "[9,0,1]");
            expect("tea", nearest(connection, "[1,2,2]"));
            expect("nail", nearest(connection, "[8,1,1]"));
        }
        System.out.println("ok");
    }

    static Connection connect() throws SQLException {
        Map<String, String> env = System.getenv();
        String url = "jdbc:postgresql://%s:%s/%s".formatted(env.get("PGHOST"), env.get("PGPORT"), env.get("PGDATABASE"));
        return DriverManager.getConnection(url, env.get("PGUSER"), env.get("PGPASSWORD"));
    }

    static void add(Connection connection, String name, String embedding) throws SQLException {
        try (var insert = connection.prepareStatement("insert into product values (?, ?::vector)")) {
            insert.setString(1, name);
            insert.setString(2, embedding);
            insert.executeUpdate();
        }
    }

    static String nearest(Connection connection, String embedding) throws SQLException {
        String query = "select name from product order by embedding <-> ?::vector limit 1";
        try (PreparedStatement select = connection.prepareStatement(query)) {
            select.setString(1, embedding);
            var found = select.executeQuery();
            return found.next() ? found.getString("name") : null;
        }
    }

    static void expect(String expected, String found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected %s, found %s".formatted(expected, found));
        }
    }
}
