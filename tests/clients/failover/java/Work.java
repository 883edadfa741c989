// Jedis and Lettuce at work while a leader is killed. See failover.rs for what is written and read on the way.

import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisException;
import io.lettuce.core.ScriptOutputType;
import io.lettuce.core.SetArgs;
import io.lettuce.core.api.sync.RedisCommands;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import redis.clients.jedis.JedisPooled;
import redis.clients.jedis.exceptions.JedisException;
import redis.clients.jedis.params.SetParams;

public final class Work {
  private static final String UNLOCK =
      "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";

  /** What the rounds need of a client. */
  private interface Client {
    String set(String key, String value);

    String get(String key);

    void pair(String a, String b, String value);

    String lock(String key, String owner);

    void unlock(String key, String owner);
  }

  private static Client jedis(String host, int port) {
    var client = new JedisPooled(host, port);
    return new Client() {
      public String set(String key, String value) {
        return client.set(key, value, SetParams.setParams().ex(1000));
      }

      public String get(String key) {
        return client.get(key);
      }

      public void pair(String a, String b, String value) {
        try (var transaction = client.multi()) {
          transaction.set(a, value);
          transaction.set(b, value);
          transaction.exec();
        }
      }

      public String lock(String key, String owner) {
        return client.set(key, owner, SetParams.setParams().nx().px(10000));
      }

      public void unlock(String key, String owner) {
        client.eval(UNLOCK, List.of(key), List.of(owner));
      }
    };
  }

  private static Client lettuce(String host, int port) {
    RedisCommands<String, String> client = RedisClient.create("redis://" + host + ":" + port).connect().sync();
    return new Client() {
      public String set(String key, String value) {
        return client.set(key, value, SetArgs.Builder.ex(1000));
      }

      public String get(String key) {
        return client.get(key);
      }

      public void pair(String a, String b, String value) {
        client.multi();
        client.set(a, value);
        client.set(b, value);
        client.exec();
      }

      public String lock(String key, String owner) {
        return client.set(key, owner, SetArgs.Builder.nx().px(10000));
      }

      public void unlock(String key, String owner) {
        client.eval(UNLOCK, ScriptOutputType.INTEGER, new String[] {key}, owner);
      }
    };
  }

  private static void check(boolean holds, String text) {
    if (!holds) {
      System.err.println(text);
      System.exit(1);
    }
  }

  public static void main(String[] words) {
    String name = words[0];
    int port = Integer.parseInt(words[3]);
    Client client = words[1].equals("jedis") ? jedis(words[2], port) : lettuce(words[2], port);
    boolean[] stop = {false};
    Thread listener = new Thread(() -> {
      try {
        while (System.in.read() >= 0) {}
      } catch (java.io.IOException error) {
        // The end as well.
      }
      synchronized (stop) {
        stop[0] = true;
      }
    });
    listener.setDaemon(true);
    listener.start();
    List<Integer> acknowledged = new ArrayList<>();
    int failed = 0;
    for (int n = 1; ; n++) {
      synchronized (stop) {
        if (stop[0]) {
          break;
        }
      }
      String value = String.valueOf(n);
      try {
        check("OK".equals(client.set(name + ":" + n, value)), "SET");
        acknowledged.add(n);
        check(value.equals(client.get(name + ":" + n)), name + ":" + n + " is lost at once");
        client.pair(name + ":a", name + ":b", value);
        if (client.lock(name + ":lock", value) != null) {
          client.unlock(name + ":lock", value);
        }
        System.out.println("round " + n);
      } catch (JedisException | RedisException error) {
        failed++;
        System.err.println("round " + n + ": " + error);
      }
    }
    for (int n : acknowledged) {
      check(String.valueOf(n).equals(client.get(name + ":" + n)), name + ":" + n + " is lost");
    }
    check(Objects.equals(client.get(name + ":a"), client.get(name + ":b")), "half a transaction");
    System.out.println("ok " + acknowledged.size() + " " + failed);
    System.exit(0);
  }
}
