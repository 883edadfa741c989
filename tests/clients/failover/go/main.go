// go-redis at work while a leader is killed. See failover.rs for what is written and read on the way.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

var unlock = redis.NewScript("if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end")

func wrong(format string, words ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", words...)
	os.Exit(1)
}

func round(ctx context.Context, client *redis.Client, name string, n int) (acknowledged bool, err error) {
	key, value := fmt.Sprintf("%s:%d", name, n), strconv.Itoa(n)
	if err = client.Set(ctx, key, value, 1000*time.Second).Err(); err != nil {
		return false, err
	}
	seen, err := client.Get(ctx, key).Result()
	if err == redis.Nil || err == nil && seen != value {
		wrong("%s is %q, %v", key, seen, err)
	}
	if err != nil {
		return true, err
	}
	_, err = client.TxPipelined(ctx, func(pair redis.Pipeliner) error {
		pair.Set(ctx, name+":a", value, 0)
		pair.Set(ctx, name+":b", value, 0)
		return nil
	})
	if err != nil {
		return true, err
	}
	got, err := client.SetNX(ctx, name+":lock", value, 10*time.Second).Result()
	if err == nil && got {
		err = unlock.Run(ctx, client, []string{name + ":lock"}, value).Err()
	}
	return true, err
}

func main() {
	name, host, port := os.Args[1], os.Args[2], os.Args[3]
	client := redis.NewClient(&redis.Options{Addr: host + ":" + port, ReadTimeout: 15 * time.Second})
	ctx, stop := context.Background(), make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	var acknowledged []int
	failed := 0
work:
	for n := 1; ; n++ {
		select {
		case <-stop:
			break work
		default:
		}
		done, err := round(ctx, client, name, n)
		if done {
			acknowledged = append(acknowledged, n)
		}
		if err != nil {
			failed++
			fmt.Fprintf(os.Stderr, "round %d: %v\n", n, err)
			continue
		}
		fmt.Printf("round %d\n", n)
	}
	for _, n := range acknowledged {
		seen, err := client.Get(ctx, fmt.Sprintf("%s:%d", name, n)).Int()
		if err != nil || seen != n {
			wrong("%s:%d is lost: %v", name, n, err)
		}
	}
	if a, b := client.Get(ctx, name+":a").Val(), client.Get(ctx, name+":b").Val(); a != b {
		wrong("half a transaction: %s, %s", a, b)
	}
	fmt.Printf("ok %d %d\n", len(acknowledged), failed)
}
